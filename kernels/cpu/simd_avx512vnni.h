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

// --- Bit planes ---

#define RSQUANT_BITPLANES

inline Ints multiply(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }

struct BitDot {
  static constexpr int kChannels = 8;
  static constexpr int kPixels = 12;  // 24 sums of 32 registers
  static constexpr int kSteps = 511;  // 64 * 511 <= 32,767: `weigh` multiplies 16 bits
  typedef Ints Sum;
  static Sum load(const void* from) { return _mm512_load_si512(from); }
  static Sum spread(std::uint64_t word) { return _mm512_set1_epi64(static_cast<long long>(word)); }
  static Sum step(Sum sum, Sum a, Sum w) {
    return _mm512_add_epi64(sum, _mm512_popcnt_epi64(_mm512_and_si512(a, w)));
  }
  static Ints weigh(Ints acc, const Sum* sums, Ints factor) {
    const Ints even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    // The upper halves of the counts are 0.
    return _mm512_dpwssd_epi32(acc, _mm512_permutex2var_epi32(sums[0], even, sums[1]), factor);
  }
};

inline void split64(const std::uint8_t* bytes, const Codes& codes, std::uint64_t* words) {
  const __m512i v = _mm512_loadu_si512(bytes);
  std::uint64_t found[4] = {};
  for (int l = 0; l < codes.count; ++l) {
    const std::uint64_t equal =
        _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8(static_cast<char>(codes.level[l])));
    for (int j = 0; j < 4; ++j) found[j] |= codes.code[l] >> j & 1 ? equal : 0;
  }
  for (int j = 0; j < codes.planes; ++j) words[j] = found[j];
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
