#include "resampling.h"

#include <algorithm>
#include <cmath>

namespace rsquant::packed {
namespace {

constexpr float kParts = 128.0f;  // of 1, in the weights of bytes

// Pixels of the input from one of the result to the next.
float step_of(int side, int out, std::optional<double> scale) {
  if (scale) return static_cast<float>(1.0 / *scale);
  return static_cast<float>(side) / static_cast<float>(out);
}

}  // namespace

Taps nearest_taps(int side, int out, std::optional<double> scale, bool exact) {
  Taps taps;
  const float step = step_of(side, out, scale);
  for (int i = 0; i < out; ++i) {
    std::int64_t found = 0;
    if (!exact && out == side) {
      found = i;
    } else if (!exact && out == 2 * side) {
      found = i / 2;
    } else {
      const float place = (exact ? static_cast<float>(i) + 0.5f : static_cast<float>(i)) * step;
      found = std::min(static_cast<std::int64_t>(std::floor(place)), std::int64_t{side} - 1);
    }
    taps.add(found, found, 1.0f, 0.0f);
  }
  return taps;
}

Taps linear_taps(int side, int out, std::optional<double> scale, bool align_corners) {
  Taps taps;
  for (int i = 0; i < out; ++i) {
    const float index = static_cast<float>(i);
    float place = index;
    if (out != side && align_corners) {
      const float step =
          out > 1 ? static_cast<float>(side - 1) / static_cast<float>(out - 1) : 0.0f;
      place = step * index;
    } else if (out != side) {
      place = std::max(step_of(side, out, scale) * (index + 0.5f) - 0.5f, 0.0f);
    }
    const std::int64_t first = std::min(static_cast<std::int64_t>(place), std::int64_t{side} - 1);
    const std::int64_t second = std::min(first + 1, std::int64_t{side} - 1);
    const float upper = std::clamp(place - static_cast<float>(first), 0.0f, 1.0f);
    taps.add(first, second, 1.0f - upper, upper);
  }
  return taps;
}

Taps in_parts(Taps taps) {
  for (std::size_t i = 0; i < taps.weights.size(); i += 2) {
    const float upper = std::rint(taps.weights[i + 1] * kParts) / kParts;
    taps.weights[i] = 1.0f - upper;
    taps.weights[i + 1] = upper;
  }
  return taps;
}

}  // namespace rsquant::packed
