// Weighted sums of a photograph's pixels along its rows and columns.
#pragma once

#include <cstdint>

namespace rsquant {

// What some output pixels of an axis are made of: output i is
//
//   clip((sum over t < taps of weight[i][t] * pixel[first[i] + t] + half) >> bits, 0, 255)
//
// with half = 2^(bits - 1). Weights add up to 2^bits <= 2^22 but for half a unit per tap, so the
// sum fits 32 bits. All pixels lie inside the image.
struct Windows {
  int count, taps, bits;
  const int* first;
  const std::int16_t* weights;  // (count, taps) for columns; see `row`
};

// `row` takes four taps at a time: its weights are (count, quads, kQuadWords), of each four
// a b a b a b 0 0 c d c d c d 0 0; taps that a last four lacks have weight 0.
constexpr int kQuadWords = 16;
// Bytes behind the last pixel that `row` may read, whatever they are.
constexpr int kBehind = 16;

struct Resample {
  // A row of pixels R G B to `windows.count` pixels.
  void (*row)(const std::uint8_t* in, const Windows& windows, std::uint8_t* out);
  // Rows of `width` pixels, which are `stride` bytes apart, to three planes of `width` bytes a row.
  void (*columns)(const std::uint8_t* in, std::int64_t stride, int width, const Windows& windows,
                  std::uint8_t* out);
};

}  // namespace rsquant
