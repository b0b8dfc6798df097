// 64-bit ARM with SDOT (ARMv8.2 dot product): 16 products of bytes to 4 sums in one instruction.
#pragma once

#include "simd_neon_base.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kTileVectors = 4, kTilePixels = 6;  // 24 sums of 32 registers

// Bytes times bytes, both signed (so inputs up to 127), summed over 4 channels.
struct ByteDot {
  static constexpr bool kNarrow = true;  // not for how long a sum is exact, but for `steps`
  typedef Ints Sum;
  static Sum step(Sum sum, Ints a, Ints w) {
    return vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(w));
  }
  static Ints widen(Sum sum) { return sum; }
  static int steps(int input_limit, int) { return input_limit > 127 ? 0 : 1 << 30; }
};

// 16-bit times 16-bit, summed over 2 channels.
struct WordDot {
  static constexpr bool kNarrow = false;
  typedef Ints Sum;
  static Sum step(Sum sum, Ints a, Ints w) {
    const int16x8_t words = vreinterpretq_s16_s32(a), weights = vreinterpretq_s16_s32(w);
    const int32x4_t low = vmull_s16(vget_low_s16(words), vget_low_s16(weights));
    return vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(words, weights)));
  }
  static Ints widen(Sum sum) { return sum; }
};

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
