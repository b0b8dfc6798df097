// Plain loops that the compiler vectorises; see elementwise.h.

#include "elementwise.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

void function(const Function& f, const float* __restrict x, std::int64_t count,
              float* __restrict y) {
  const float* __restrict value = f.value;
  const float* __restrict slope = f.slope;
  const float* __restrict curve = f.curve;
  const float last = static_cast<float>(f.intervals - 1);
  for (std::int64_t k = 0; k < count; ++k) {
    float place = (x[k] - f.low) * f.inverse_step;
    place = place > 0.0f ? place : 0.0f;
    place = place < last ? place : last;
    const std::int32_t i = static_cast<std::int32_t>(place);
    const float d = x[k] - (f.low + static_cast<float>(i) * f.step);
    float part = d * curve[i];
    part = slope[i] + part;
    part = d * part;
    y[k] = value[i] + part;
  }
}

void lookup(const float* __restrict value, const std::uint8_t* __restrict x, int pixels,
            int channels, int pixel_bytes, float* __restrict y) {
  for (int p = 0; p < pixels; ++p) {
    for (int c = 0; c < channels; ++c) y[c] = value[x[c]];
    x += pixel_bytes;
    y += channels;
  }
}

struct Product {
  static float of(float a, float b) { return a * b; }
};

struct Sum {
  static float of(float a, float b) { return a + b; }
};

// One number serves all channels of `b`, or none does.
template <class Two>
void channels_of(const float* __restrict a, const float* __restrict b, int step, int channels,
                 float* __restrict y) {
  if (step == 1) {
    for (int c = 0; c < channels; ++c) y[c] = Two::of(a[c], b[c]);
  } else {
    const float one = b[0];
    for (int c = 0; c < channels; ++c) y[c] = Two::of(a[c], one);
  }
}

// Both operations are the same with their operands in the other order.
template <class Two>
void two(const Operand& a, const Operand& b, int pixels, int channels, float* y) {
  const bool turned = a.channel == 0;
  const Operand& one = turned ? b : a;
  const Operand& other = turned ? a : b;
  for (int p = 0; p < pixels; ++p) {
    const float* from = one.at + p * one.pixel;
    const float* by = other.at + p * other.pixel;
    channels_of<Two>(from, by, other.channel, channels, y);
    y += channels;
  }
}

}  // namespace

extern const Elementwise elementwise;
const Elementwise elementwise = {function, lookup, two<Product>, two<Sum>};

}  // namespace RSQUANT_ISA
}  // namespace rsquant
