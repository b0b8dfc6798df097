// AVX-512 without an 8-bit dot product (F, BW, DQ, VL): products as with AVX2, twice as wide.
#pragma once

#include "simd_avx512_base.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// See simd_avx2.h.
struct ByteDot {
  static constexpr bool kNarrow = true;
  typedef Ints Sum;
  static Sum step(Sum sum, Ints a, Ints w) {
    return _mm512_add_epi16(sum, _mm512_maddubs_epi16(a, w));
  }
  static Ints widen(Sum sum) { return _mm512_madd_epi16(sum, _mm512_set1_epi16(1)); }
  static int steps(int input_limit, int weight_limit) {
    return 32767 / (2 * input_limit * weight_limit);
  }
};

struct WordDot {
  static constexpr bool kNarrow = false;
  typedef Ints Sum;
  static Sum step(Sum sum, Ints a, Ints w) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, w));
  }
  static Ints widen(Sum sum) { return sum; }
};

typedef ShuffleLookup Lookup;

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
