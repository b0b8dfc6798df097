// Which pixels a resized map takes along one side, and how much of each, in float32 and in torch's
// order of operations: rsquant/packed/resampling.py.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "windows.h"

namespace rsquant::packed {

// For each pixel of the result two of the input, and their weights.
struct Taps {
  SpanTable pixels;
  std::vector<float> weights;

  void add(std::int64_t first, std::int64_t second, float lower, float upper) {
    pixels.push_back(static_cast<std::int32_t>(first));
    pixels.push_back(static_cast<std::int32_t>(second));
    weights.push_back(lower);
    weights.push_back(upper);
  }
};

// scale: the factor that torch was given; none: of the sides.
Taps nearest_taps(int side, int out, std::optional<double> scale, bool exact);
Taps linear_taps(int side, int out, std::optional<double> scale, bool align_corners);

// The same with weights of whole parts of 128, halves to even; they still add up to 1. Sums of
// bytes times the weights of both sides are then exact in float32.
Taps in_parts(Taps taps);

}  // namespace rsquant::packed
