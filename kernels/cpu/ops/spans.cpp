// Windows from Python.

#include "ops/binding.h"

namespace rsquant {

std::vector<int> checked_spans(const Array<const std::int32_t, 2>& spans, int count, int side) {
  require(static_cast<int>(spans.shape(0)) == count && spans.shape(1) == 2, "windows: (n, 2)");
  const std::vector<int> found(spans.data(), spans.data() + spans.size());
  for (int i = 0; i < count; ++i) {
    const std::size_t at = 2 * static_cast<std::size_t>(i);
    require(found[at] >= 0 && found[at] < found[at + 1] && found[at + 1] <= side,
            "a window outside the input");
  }
  return found;
}

}  // namespace rsquant
