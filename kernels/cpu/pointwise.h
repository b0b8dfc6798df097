// What a packed network does between convolutions and after the last one. Layouts as in conv.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv.h"

namespace rsquant {

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

// logit = factor_o * float(sum code_i w_oi + bias_o); every sum fits 32 bits.
struct ByteLinear {
  int inputs;
  const std::int8_t* weight;  // (outputs, inputs)
  const float* factor;
  const std::int32_t* bias;
  const std::int16_t* codes;  // of the input: bytes less their zero point
  float* output;
};

struct Pointwise {
  // The epilogue on one row of values instead of accumulators. `in`: the row's first pixel, of
  // bytes (`element` 1) or float32 (4), `pixel` bytes apart. Where bytes become bytes, the
  // accumulators are 64 times them.
  void (*map)(const Epilogue&, const ConvShape&, const std::uint8_t* in, int element, int pixel,
              int row);
  float (*quantize_input)(const Linear&);                              // returns m
  void (*linear)(const Linear&, float largest, int first, int count);  // outputs
  void (*byte_linear)(const ByteLinear&, int first, int count);        // outputs
};

}  // namespace rsquant
