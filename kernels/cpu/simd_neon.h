// The 64-bit ARM baseline: 4 lanes of 32 bits. See simd.h.
#pragma once

#include "simd_neon_base.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kTileVectors = 4, kTilePixels = 3;  // 12 sums in 24 of 32 registers

// Sums of products, of the two channels in the lower and of the two in the upper half of a vector.
template <class V>
struct Halves {
  V low, high;
};

// Bytes times bytes, both signed (so inputs up to 127): a 16-bit sum for each of 16 products.
struct ByteDot {
  static constexpr bool kNarrow = true;
  typedef Halves<int16x8_t> Sum;
  static Sum step(Sum sum, Ints a, Ints w) {
    const int8x16_t bytes = vreinterpretq_s8_s32(a), weights = vreinterpretq_s8_s32(w);
    return {vmlal_s8(sum.low, vget_low_s8(bytes), vget_low_s8(weights)),
            vmlal_high_s8(sum.high, bytes, weights)};
  }
  static Ints widen(Sum sum) { return vpaddq_s32(vpaddlq_s16(sum.low), vpaddlq_s16(sum.high)); }
  // Steps that a sum surely holds.
  static int steps(int input_limit, int weight_limit) {
    return input_limit > 127 ? 0 : 32767 / (input_limit * weight_limit);
  }
};

// 16-bit times 16-bit: a 32-bit sum for each of 8 products.
struct WordDot {
  static constexpr bool kNarrow = false;
  typedef Halves<int32x4_t> Sum;
  static Sum step(Sum sum, Ints a, Ints w) {
    const int16x8_t words = vreinterpretq_s16_s32(a), weights = vreinterpretq_s16_s32(w);
    return {vmlal_s16(sum.low, vget_low_s16(words), vget_low_s16(weights)),
            vmlal_high_s16(sum.high, words, weights)};
  }
  static Ints widen(Sum sum) { return vpaddq_s32(sum.low, sum.high); }
};

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
