// AVX2: 8 lanes of 32 bits. See simd.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd_shorts.h"
#include "simd_x86.h"

// Not of AVX-512, which has AVX2 and may be emulated with it.
#define RSQUANT_AVX2
#define RSQUANT_IMAGE_BYTES

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kLanes = 8;
constexpr int kTileVectors = 2, kTilePixels = 6;  // 12 accumulators of 16 registers

typedef __m256i Ints;
typedef __m256 Floats;

inline Ints load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
inline void store(void* to, Ints v) { _mm256_storeu_si256(static_cast<__m256i*>(to), v); }
inline Ints broadcast(std::int32_t value) { return _mm256_set1_epi32(value); }
inline Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
inline Ints subtract(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }
inline Ints multiply_sign(Ints a, Ints sign) { return _mm256_sign_epi32(a, sign); }
inline Ints and_greater(Ints a, Ints b, Ints value) {
  return _mm256_and_si256(_mm256_cmpgt_epi32(a, b), value);
}
inline Ints and_greater(Floats a, Floats b, Ints value) {
  return _mm256_and_si256(_mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_GT_OQ)), value);
}

inline Floats load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Floats v) { _mm256_storeu_ps(to, v); }
inline Floats broadcast(float value) { return _mm256_set1_ps(value); }
inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats largest(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats smallest(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats to_float(Ints v) { return _mm256_cvtepi32_ps(v); }
inline Ints round(Floats v) { return _mm256_cvtps_epi32(v); }
inline Shorts to_shorts(const Ints* v) {
  const __m256i words = _mm256_packs_epi32(v[0], v[1]);  // 0-3 8-11 | 4-7 12-15
  return {_mm256_permute4x64_epi64(words, 0xD8)};
}

// The low bytes of 16 values.
inline void store_bytes(std::uint8_t* to, const Ints* v) {
  const __m256i words = _mm256_packus_epi32(v[0], v[1]);  // 0-3 8-11 | 4-7 12-15
  const __m256i bytes = _mm256_packus_epi16(words, words);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, order)));
}

// Bytes times bytes, summed over 4 channels: two 16-bit sums of 2 products per lane, exact up to
// 32,767; `widen` adds the two.
struct ByteDot {
  static constexpr bool kNarrow = true;
  typedef Ints Sum;
  static Sum step(Sum sum, Ints a, Ints w) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, w));
  }
  static Ints widen(Sum sum) { return _mm256_madd_epi16(sum, _mm256_set1_epi16(1)); }
  // Steps that a sum surely holds.
  static int steps(int input_limit, int weight_limit) {
    return 32767 / (2 * input_limit * weight_limit);
  }
};

// 16-bit times 16-bit, summed over 2 channels in 32 bits.
struct WordDot {
  static constexpr bool kNarrow = false;
  typedef Ints Sum;
  static Sum step(Sum sum, Ints a, Ints w) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, w));
  }
  static Ints widen(Sum sum) { return sum; }
};

// 32 weight levels from their bits: offset + sum_k (bit_k ? worth_k : 0), modulo 256.
inline void decode32(const std::uint32_t* planes, int bits, std::int8_t offset,
                     const std::int8_t* worth, std::int8_t* out) {
  const __m256i which = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2,
                                         2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ULL));
  __m256i level = _mm256_set1_epi8(offset);
  for (int k = 0; k < bits; ++k) {
    const __m256i word = _mm256_set1_epi32(static_cast<std::int32_t>(planes[k]));
    const __m256i set = _mm256_and_si256(_mm256_shuffle_epi8(word, which), bit);
    level = _mm256_add_epi8(
        level, _mm256_and_si256(_mm256_cmpeq_epi8(set, bit), _mm256_set1_epi8(worth[k])));
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), level);
}

inline Ints widen_bytes(const std::uint8_t* from) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline Ints multiply_add16(Ints sum, Ints a, Ints b) {
  return _mm256_add_epi16(sum, _mm256_mullo_epi16(a, b));
}
inline void add_to(std::int32_t* to, Ints words) {
  store(to, add(load(to), _mm256_cvtepi16_epi32(_mm256_castsi256_si128(words))));
  store(to + 8, add(load(to + 8), _mm256_cvtepi16_epi32(_mm256_extracti128_si256(words, 1))));
}

// --- Tables ---

#define RSQUANT_LOOKUP

struct Lookup {
  static constexpr int kChannels = 4, kTableBytes = 16, kRowBytes = 16;
  static constexpr int kTables = 4, kMostTables = 4, kFewestOfBytes = 0;
  static constexpr int kVectors = 2, kPairPixels = 3, kSinglePixels = 4;
  static constexpr int kHalfPairPixels = 6, kHalfSinglePixels = 4;
  static constexpr int kBytePixels = 6, kHalfBytePixels = 0;
  static constexpr int kShortRow = 0;
  // 16-bit sums: `low` of even bytes and 256 times the odd ones, `high` of odd bytes.
  struct Single {
    Ints low, high;
  };

  static Ints table(const std::uint8_t* from) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static Ints pick(Ints table, Ints index) { return _mm256_shuffle_epi8(table, index); }
  // GCC would add in another order, which takes more registers than there are.
  static Ints add_bytes(Ints a, Ints b) {
    Ints sum = _mm256_add_epi8(a, b);
    asm("" : "+x"(sum));
    return sum;
  }
  static Ints multiply32(Ints a, Ints b) { return _mm256_mullo_epi32(a, b); }
  static Ints weigh(Ints sum, Ints bytes, Ints factor) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(bytes, factor));
  }
  // Of output channels 0 .. kLanes - 1, and of the others.
  static Ints first_words(Ints words) { return _mm256_and_si256(words, _mm256_set1_epi32(0xffff)); }
  static Ints last_words(Ints words) { return _mm256_srli_epi32(words, 16); }
  static Ints first_signed(Ints words) {
    return _mm256_srai_epi32(_mm256_slli_epi32(words, 16), 16);
  }
  static Ints last_signed(Ints words) { return _mm256_srai_epi32(words, 16); }
  static Ints multiply16(Ints a, Ints b) { return _mm256_mullo_epi16(a, b); }
  static Ints add16(Ints a, Ints b) { return _mm256_add_epi16(a, b); }
  static Ints spread16(std::int32_t value) {
    return _mm256_set1_epi16(static_cast<std::int16_t>(value));
  }
  static int word_place(int output) { return output % kLanes * 2 + output / kLanes; }
  static int pair_place(int output, int plane) { return 2 * word_place(output) + plane; }
  static Single count(Single sum, Ints bytes) {
    return {_mm256_add_epi16(sum.low, bytes),
            _mm256_add_epi16(sum.high, _mm256_srli_epi16(bytes, 8))};
  }
  static Single count_often(Single sum, Ints bytes) { return count(sum, bytes); }
  // Sums of output channels 0 .. 2 kLanes - 1, and of the others.
  static Ints first_of(Single sum) {
    return _mm256_sub_epi16(sum.low, _mm256_slli_epi16(sum.high, 8));
  }
  static Ints last_of(Single sum) { return sum.high; }
  static int single_place(int output) {
    const int quarter = output / kLanes;
    return output % kLanes * 4 + quarter % 2 * 2 + quarter / 2;
  }
  // 16 bytes of a row, from byte `at` on, for each 16 of a vector: rows i, 16 + i, ..
  static Ints load_rows(const std::uint8_t* const* rows, std::int64_t at) {
    const auto from = [&](int i) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + at));
    };
    return _mm256_inserti128_si256(_mm256_castsi128_si256(from(0)), from(16), 1);
  }
  static Ints interleave_low(Ints a, Ints b) { return _mm256_unpacklo_epi8(a, b); }
  static Ints interleave_high(Ints a, Ints b) { return _mm256_unpackhi_epi8(a, b); }
  static Ints exclusive(Ints a, Ints b) { return _mm256_xor_si256(a, b); }
  static Ints low_bits(Ints bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
  static Ints high_bits(Ints bytes) { return low_bits(_mm256_srli_epi16(bytes, 4)); }
  static constexpr int kTogether = 4;
  struct Places {};
  static Places places() { return {}; }
  static void make_tables(const std::uint8_t* bytes, std::uint8_t* out) {
    make_four_tables(bytes, out);
  }
  static std::int32_t sum_bytes(const std::uint8_t* bytes, int count) {
    return sum_of_bytes(bytes, count);
  }
};

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
