// AVX-512 with VNNI: one instruction multiplies 64 pairs of bytes and sums them to 32 bits.
#pragma once

#include "simd_avx512_base.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Unsigned bytes (inputs, up to 255) times signed ones, exact.
struct ByteDot {
  static constexpr bool kNarrow = false;
  typedef Ints Sum;
  static Sum step(Sum sum, Ints a, Ints w) { return _mm512_dpbusd_epi32(sum, a, w); }
  static Ints widen(Sum sum) { return sum; }
};

struct WordDot {
  static constexpr bool kNarrow = false;
  typedef Ints Sum;
  static Sum step(Sum sum, Ints a, Ints w) { return _mm512_dpwssd_epi32(sum, a, w); }
  static Ints widen(Sum sum) { return sum; }
};

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
