// Maps of another size: poolings and resizing. Layouts as in conv.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rsquant {

// The windows of an axis: of window i, the first pixel is at 2 i and the one behind the last at
// 2 i + 1. All lie on the map, and none is empty.

// Largest value of each window; `element` is 1 (levels, bytes) or 4 (float32).
struct MaxPool {
  int channels, in_w, out_w;
  const int* rows;
  const int* columns;
  int dilation_h, dilation_w;
  int element;
  const std::uint8_t* input;      // pixel (0, 0) inside the border
  std::int64_t in_row, in_pixel;  // bytes
  std::uint8_t* output;
  std::int64_t out_row, out_pixel;

  // Of a thread, for the largest of each column of a row's windows.
  std::int64_t scratch_bytes() const { return in_w * in_pixel; }
};

// share times the sum of each window; one float32 accumulator, added to row by row.
struct AverageWindows {
  int channels, in_w, out_w;
  const int* rows;
  const int* columns;
  const float* share;  // (rows, columns)
  const float* input;
  float* output;
};

// Each pixel between two rows and two columns: indices and weights of row y at 2 y and 2 y + 1.
//   (v00 c0 + v01 c1) r0 + (v10 c0 + v11 c1) r1, one float32 rounding per operation
// Of bytes weights are whole parts of 128: nothing is rounded but the result, halves to even.
struct Resize {
  int channels, out_w;
  int element;  // 4: float32; 1: bytes
  const int* rows;
  const int* columns;
  const float* row_weights;
  const float* column_weights;
  const std::uint8_t* input;      // pixel (0, 0) inside the border
  std::int64_t in_row, in_pixel;  // bytes
  std::uint8_t* output;
  std::int64_t out_row, out_pixel;
};

// mean over pixels of min(max(x * scale + shift, low), high); float32 sums in row order.
struct AveragePool {
  int channels, pixels;
  const float* input;
  const float* scale;
  const float* shift;
  float low, high;
  float* output;
};

// code = min(max(round(factor * float(sum of the codes)), -zero), 255 - zero) of each window,
// halves to even. Bytes are code + zero, and those of the input code + input_zero.
struct ByteAverage {
  int input_zero, zero, out_w;
  const int* rows;
  const int* columns;
  const float* factor;            // (rows, columns)
  const std::uint8_t* input;      // pixel (0, 0) inside the border
  std::int64_t in_row, in_pixel;  // bytes
  std::uint8_t* output;
  std::int64_t out_row, out_pixel;
};
constexpr int kAveraged = 64;  // channels of a task, at most

struct Sampling {
  void (*max_pool)(const MaxPool&, int row, std::uint8_t* scratch);
  void (*average_windows)(const AverageWindows&, int row);
  void (*blend)(const Resize&, int row);
  void (*average_pool)(const AveragePool&, int first, int count);           // channels
  void (*byte_average)(const ByteAverage&, int row, int first, int count);  // channels
};

}  // namespace rsquant
