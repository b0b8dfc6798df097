#include "settings.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace rsquant::packed {

Blend blend(const std::vector<int>& sizes, double size) {
  if (size >= sizes.front()) return {0, 0, 0.0};
  const std::size_t last = sizes.size() - 1;
  if (size <= sizes[last]) return {last, last, 0.0};
  std::size_t lower = 0;
  while (sizes[lower] > size) ++lower;
  if (sizes[lower] == size) return {lower, lower, 0.0};
  const std::size_t upper = lower - 1;
  const double weight = (sizes[upper] - size) / (sizes[upper] - sizes[lower]);
  return {upper, lower, weight};
}

double side_of(int height, int width) {
  if (height == width) return height;
  return std::sqrt(static_cast<double>(static_cast<long long>(height) * width));
}

bool are_in_order(const std::vector<Bits>& bits) {
  const auto key = [](const Bits& b) {
    return std::tuple(b.weights * b.activations, b.weights, b.activations);
  };
  int weights = 0, activations = 0;
  for (std::size_t i = 0; i < bits.size(); ++i) {
    if (i > 0 && !(key(bits[i]) < key(bits[i - 1]))) return false;
    weights = std::max(weights, bits[i].weights);
    activations = std::max(activations, bits[i].activations);
  }
  return bits.front() == Bits{weights, activations};
}

std::vector<Bits> rows_of(const std::vector<int>& resolutions, const std::vector<Bits>& bits) {
  // Cost, size, bits: the largest first.
  std::vector<std::tuple<double, int, int, int>> rows;
  for (const int size : resolutions) {
    for (const Bits& b : bits) {
      const double cost = static_cast<double>(size) * size * b.weights * b.activations;
      rows.emplace_back(cost, size, b.weights, b.activations);
    }
  }
  std::sort(rows.rbegin(), rows.rend());
  std::vector<Bits> found;
  for (const auto& [cost, size, weights, activations] : rows) {
    found.push_back({weights, activations});
  }
  return found;
}

}  // namespace rsquant::packed
