// The windows of output pixels, and both passes over a photograph.
//
// A window is a triangle as wide as two input pixels, or two output pixels where those are larger,
// cut off at the borders, its weights adding up to 1. In fixed point they have as many fractional
// bits as 16 bits hold of the largest weight of the whole axis, 22 at most. The width comes first,
// and is rounded to bytes in between. torch computes in this order, with these roundings.

#include "crop.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

namespace rsquant {
namespace {

constexpr int kMostBits = 22;
constexpr double kLargestWeight = 32768;

struct OwnedWindows {
  std::vector<int> first;
  std::vector<std::int16_t> weights;
  Windows view;
  int begin, end;  // the input pixels they need
};

// The window of one output pixel: where it begins, and its weights.
struct Window {
  int first;
  std::vector<double> weights;

  void at(const Axis& axis, int i) {
    const double scale = static_cast<double>(axis.length) / axis.resized;
    const double reach = std::max(scale, 1.0), narrower = 1.0 / reach;
    const double centre = scale * (i + 0.5);
    first = std::max(static_cast<int>(centre - reach + 0.5), 0);
    const int last = std::min(static_cast<int>(centre + reach + 0.5), axis.length);
    weights.resize(static_cast<std::size_t>(std::max(last - first, 0)));
    double sum = 0;
    for (std::size_t t = 0; t < weights.size(); ++t) {
      const double pixel = static_cast<double>(t) + first;
      const double distance = std::abs((pixel - centre + 0.5) * narrower);
      weights[t] = distance < 1 ? 1 - distance : 0;
      sum += weights[t];
    }
    for (double& weight : weights) weight /= sum;
  }
};

int fraction_bits(double largest) {
  int bits = 0;
  while (bits < kMostBits && std::floor(std::ldexp(largest, bits + 1) + 0.5) < kLargestWeight) {
    ++bits;
  }
  return bits;
}

OwnedWindows windows_of(const Axis& axis) {
  Window window;
  double largest = 0;
  std::size_t taps = 1;
  for (int i = 0; i < axis.resized; ++i) {
    window.at(axis, i);
    for (const double weight : window.weights) largest = std::max(largest, weight);
    taps = std::max(taps, window.weights.size());
  }
  OwnedWindows found;
  const int bits = fraction_bits(largest), most = static_cast<int>(taps);
  found.first.resize(static_cast<std::size_t>(axis.count));
  found.weights.resize(found.first.size() * taps);
  found.begin = axis.length, found.end = 0;
  for (int i = 0; i < axis.count; ++i) {
    window.at(axis, axis.start + i);
    // A narrower window at the end begins earlier, with weights 0.
    const int first = std::max(0, std::min(window.first, axis.length - most));
    std::int16_t* to = found.weights.data() + static_cast<std::size_t>(i) * taps;
    to += window.first - first;
    for (const double weight : window.weights) {
      *to++ = static_cast<std::int16_t>(std::floor(std::ldexp(weight, bits) + 0.5));
    }
    found.first[static_cast<std::size_t>(i)] = first;
    found.begin = std::min(found.begin, first);
    found.end = std::max(found.end, first + most);
  }
  for (int& first : found.first) first -= found.begin;
  found.view = {axis.count, most, bits, found.first.data(), found.weights.data()};
  return found;
}

// With weights as `Resample::row` wants them.
OwnedWindows by_four(OwnedWindows windows) {
  Windows& view = windows.view;
  const int quads = (view.taps + 3) / 4;
  std::vector<std::int16_t> weights(static_cast<std::size_t>(view.count) * quads * kQuadWords);
  for (int i = 0; i < view.count; ++i) {
    for (int t = 0; t < view.taps; ++t) {
      const int quad = i * quads + t / 4, pair = t % 4 / 2;
      for (int c = 0; c < 3; ++c) {
        weights[static_cast<std::size_t>(quad * kQuadWords + pair * 8 + 2 * c + t % 2)] =
            view.weights[i * view.taps + t];
      }
    }
  }
  windows.weights = std::move(weights);
  view.weights = windows.weights.data();
  return windows;
}

}  // namespace

void crop(const Resample& resample, const Photograph& from, const Axis& rows, const Axis& columns,
          std::uint8_t* out) {
  const OwnedWindows down = windows_of(rows), across = by_four(windows_of(columns));
  const int needed = down.end - down.begin, width = across.end - across.begin;
  const std::int64_t narrow = std::int64_t{3} * columns.count;
  // Bytes behind the last pixel may be read, which need not be the photograph's.
  std::vector<std::uint8_t> row(static_cast<std::size_t>(width) * 3 + kBehind);
  std::vector<std::uint8_t> narrowed(static_cast<std::size_t>(needed * narrow));
  for (int y = 0; y < needed; ++y) {
    const std::uint8_t* at = from.pixels + (down.begin + y) * from.row_bytes;
    std::memcpy(row.data(), at + std::int64_t{3} * across.begin, row.size() - kBehind);
    resample.row(row.data(), across.view, narrowed.data() + y * narrow);
  }
  resample.columns(narrowed.data(), narrow, columns.count, down.view, out);
}

}  // namespace rsquant
