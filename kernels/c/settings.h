// Which rows of a table of BatchNorms belong to a size: rsquant/settings.py.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace rsquant::packed {

// value = (1 - weight) row_i + weight row_j.
struct Blend {
  std::size_t i, j;
  double weight;
};

// The rows of a size between others: resolutions, largest first, are those of the rows.
Blend blend(const std::vector<int>& resolutions, double size);

// Side in pixels of the square with the area of an image.
double side_of(int height, int width);

struct Bits {
  int weights, activations;
  bool operator==(const Bits&) const = default;
};

// Whether settings of bits are different, the costliest first, and that with the most of both.
bool are_in_order(const std::vector<Bits>& bits);

// The bits of each row of a file of several settings: every size at every pair of bits, the
// costliest first.
std::vector<Bits> rows_of(const std::vector<int>& resolutions, const std::vector<Bits>& bits);

}  // namespace rsquant::packed
