// Windows that slide over a map, and what pads it: rsquant/padding.py, rsquant/packed/windows.py.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "fields.h"

namespace rsquant::packed {

using Sides = std::array<int, 4>;  // above, left, below, right

// Pixels of every size, alike on both sides or not, or TensorFlow's rule with the odd pixel behind
// or in front of the map.
struct Padding {
  enum class Form { pair, sides, same, same_lower };
  Form form;
  Sides sides;

  bool is_rule() const { return form == Form::same || form == Form::same_lower; }
  // Whether a side is padded by `most` pixels of height or width, or more.
  bool reaches(Pair most) const;
  // The zeros around a map.
  Sides at(Pair map, Pair extent, Pair stride) const;
};

// The field 'padding'.
Padding read_padding(Fields& fields);
// Of a pooling, whose windows span `extent` pixels: so little that each window has pixels.
Padding read_pool_padding(Fields& fields, Pair extent);

// Pixels that a dilated window spans.
Pair extent_of(Pair kernel, Pair dilation);

// Windows that fit on a padded side; less than 1 where none does.
int output_side(int side, int before, int after, int extent, int stride);

// Of each window its first pixel, and the one behind its last: (n, 2).
using SpanTable = std::vector<std::int32_t>;

SpanTable sliding(int side, int before, int after, int kernel, int stride, int dilation,
                  bool ceil_mode);
// The part of each window that lies on the map; begin >= end where there is none.
SpanTable inside(const SpanTable& spans, int side, int dilation);
// `count` windows that cover a side.
SpanTable adaptive(int side, int count);
// The longest window, in pixels.
std::int64_t longest(const SpanTable& spans);

}  // namespace rsquant::packed
