// Windows as they are given.

#include "steps/steps.h"

namespace rsquant {

std::vector<int> checked_spans(Pairs spans, int count, int side) {
  require(spans.size() == 2 * static_cast<std::size_t>(count), "windows: (n, 2)");
  for (std::size_t at = 0; at < spans.size(); at += 2) {
    require(spans[at] >= 0 && spans[at] < spans[at + 1] && spans[at + 1] <= side,
            "a window outside the input");
  }
  return {spans.begin(), spans.end()};
}

}  // namespace rsquant
