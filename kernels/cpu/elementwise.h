// Functions of one number and of two, a row at a time; an epilogue follows (pointwise.h). float32,
// one rounding per operation: rsquant/packed/functions.py and rsquant/packed/ops/binary.py.
#pragma once

#include <cstdint>

namespace rsquant {

// A function in intervals, or of every byte.
struct Function {
  float low, step, inverse_step;
  int intervals;
  const float* value;  // (intervals,), or (256,) by byte
  const float* slope;
  const float* curve;
};

// Where a row of one operand begins, and how far its next pixel and channel are: 0 where one number
// serves all.
struct Operand {
  const float* at;
  std::int64_t pixel;
  int channel;
};

struct Elementwise {
  // y = f(x) of `count` numbers.
  void (*function)(const Function&, const float* x, std::int64_t count, float* y);
  // y = value[x]: `pixels` of `channels` bytes, `pixel_bytes` apart.
  void (*lookup)(const float* value, const std::uint8_t* x, int pixels, int channels,
                 int pixel_bytes, float* y);
  // a * b and a + b: a row of `pixels` of `channels`.
  void (*multiply)(const Operand& a, const Operand& b, int pixels, int channels, float* y);
  void (*add)(const Operand& a, const Operand& b, int pixels, int channels, float* y);
};

}  // namespace rsquant
