// The size of an adaptive pooling's result.
#pragma once

#include <array>
#include <optional>

#include "fields.h"

namespace rsquant::packed {

// An average has a table of all its pixels.
constexpr int kMostPooled = 4096;

// Height and width; none: that of the input.
using OutputSize = std::array<std::optional<int>, 2>;

inline OutputSize read_output_size(Fields& fields) {
  OutputSize size;
  const Items& items = fields.items("size", 2, 2);
  for (std::size_t i = 0; i < 2; ++i) {
    if (!items[i].is_null()) size[i] = fields.as_integer("size", items[i], 1, kMostPooled);
  }
  return size;
}

}  // namespace rsquant::packed
