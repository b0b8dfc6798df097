// The factors of a ByteEpilogue as numbers of 16 bits. Not for files compiled per instruction set:
// see the warning in kernels.h.
//
// A factor is m / 2^15 where rsquant/packed/integers.py rounds it so, 256 < |m| < 2^15 and odd.
// Then
//
//   code = limited(round(factor * float(acc + bias)))     to -128 .. 127, halves to even
//        = limited((x * m + 2^14) >> 15)                  x = acc + bias limited to 16 bits
//
// which VPMULHRSW computes of twice as many numbers as a register has of 32 bits:
//
//   float32 holds x * m / 2^15 wherever it is less than 2^9, and so exactly what is rounded
//   halves: x * m is an odd multiple of 2^14, so x is, since m is odd. Such an x of 16 bits is 2^14
//           or -2^14, and the code is beyond its limits, since |m| > 256
//   limits: of |x| >= 2^15 it is as well
//
// A byte is then code + 128, or code + byte of `add`, limited to 0 .. 255, as a sum of signed bytes
// is that are 128 less; no other zero points are taken.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "conv.h"

namespace rsquant {

// Sets `words`, the numbers m, where all bytes are the same so, and `short_bias`.
// adds: there is an `add`.
inline void make_byte_words(ByteEpilogue& e, int channels, bool adds, std::int16_t* to) {
  constexpr float kUnit = 1 << 15;
  e.words = nullptr;
  e.short_bias = true;
  if (e.low != -128 || e.high != 127 || e.offset != (adds ? 0 : 128)) return;
  for (int c = 0; c < channels; ++c) {
    const float scaled = e.factor[c] * kUnit;
    if (std::abs(scaled) >= kUnit || scaled != std::rint(scaled)) return;
    const int m = static_cast<int>(scaled);
    if (m % 2 == 0 || std::abs(m) <= 256) return;
    to[c] = static_cast<std::int16_t>(m);
    e.short_bias = e.short_bias && e.bias[c] >= -32767 && e.bias[c] <= 32767;
  }
  e.words = to;
}

}  // namespace rsquant
