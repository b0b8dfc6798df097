// What a packed network does between convolutions and after the last one. Layouts as in conv.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv.h"

namespace rsquant {

// One row of a 2-D pooling; `element` is 1 (levels, bytes) or 4 (float32).
struct MaxPool {
  int channels, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
  int in_h, in_w, out_h, out_w;
  int element;
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

// logit = (sum x_i w_oi) * (m / limit * scale_o) + bias_o with 16-bit x_i = rint(x * (limit / m)),
// m = max |x|. `limit` is such that the sum fits 32 bits.
struct Linear {
  int inputs, outputs;
  int limit;
  const std::int8_t* weight;  // (outputs, inputs)
  const float* scale;
  const float* bias;
  const float* input;
  std::int16_t* quantized;  // room for `inputs`, filled up to 32
  float* output;
};

struct Pointwise {
  // The epilogue on one row of values instead of accumulators. `in`: the row's first pixel, of
  // bytes (`element` 1) or float32 (4), `pixel` bytes apart.
  void (*map)(const Epilogue&, const ConvShape&, const std::uint8_t* in, int element, int pixel,
              int row);
  void (*max_pool)(const MaxPool&, int row);
  void (*average_pool)(const AveragePool&, int first, int count);      // channels
  float (*quantize_input)(const Linear&);                              // returns m
  void (*linear)(const Linear&, float largest, int first, int count);  // outputs
};

}  // namespace rsquant
