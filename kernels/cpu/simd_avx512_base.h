// What all AVX-512 instruction sets share: everything of simd.h but the dot products.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd_shorts.h"

#if defined(__AVX512BW__)
#define RSQUANT_WIDE_BYTES
#else
#undef RSQUANT_WORD_LEVELS  // emulated: word_epilogue.h knows registers of AVX2 and real ones
#endif
#include "simd_x86.h"

#define RSQUANT_IMAGE_BYTES

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kLanes = 16;
constexpr int kTileVectors = 2, kTilePixels = 12;  // 24 accumulators of 32 registers

typedef __m512i Ints;
typedef __m512 Floats;

inline Ints load(const void* from) { return _mm512_loadu_si512(from); }
inline void store(void* to, Ints v) { _mm512_storeu_si512(to, v); }
inline Ints broadcast(std::int32_t value) { return _mm512_set1_epi32(value); }
inline Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Ints subtract(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
inline Ints multiply_sign(Ints a, Ints sign) {
  return _mm512_mask_sub_epi32(a, _mm512_movepi32_mask(sign), _mm512_setzero_si512(), a);
}
inline Ints and_greater(Ints a, Ints b, Ints value) {
  return _mm512_maskz_mov_epi32(_mm512_cmpgt_epi32_mask(a, b), value);
}
inline Ints and_greater(Floats a, Floats b, Ints value) {
  return _mm512_maskz_mov_epi32(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), value);
}

inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Floats v) { _mm512_storeu_ps(to, v); }
inline Floats broadcast(float value) { return _mm512_set1_ps(value); }
inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats largest(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats smallest(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats to_float(Ints v) { return _mm512_cvtepi32_ps(v); }
inline Ints round(Floats v) { return _mm512_cvtps_epi32(v); }
inline Shorts to_shorts(const Ints* v) { return {_mm512_cvtsepi32_epi16(v[0])}; }

inline void store_bytes(std::uint8_t* to, const Ints* v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(v[0]));
}

inline void decode32(const std::uint32_t* planes, int bits, std::int8_t offset,
                     const std::int8_t* worth, std::int8_t* out) {
  __m256i level = _mm256_set1_epi8(offset);
  for (int k = 0; k < bits; ++k) {
    level = _mm256_mask_add_epi8(level, planes[k], level, _mm256_set1_epi8(worth[k]));
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), level);
}

inline Ints widen_bytes(const std::uint8_t* from) {
  return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline Ints multiply_add16(Ints sum, Ints a, Ints b) {
  return _mm512_add_epi16(sum, _mm512_mullo_epi16(a, b));
}
inline void add_to(std::int32_t* to, Ints words) {
  const __m256i low = _mm512_castsi512_si256(words), high = _mm512_extracti64x4_epi64(words, 1);
  store(to, add(load(to), _mm512_cvtepi16_epi32(low)));
  store(to + 16, add(load(to + 16), _mm512_cvtepi16_epi32(high)));
}

// --- Tables ---

#define RSQUANT_LOOKUP

// In 16 bytes, with VPSHUFB.
struct ShuffleLookup {
  static constexpr int kChannels = 4, kTableBytes = 16, kRowBytes = 16;
  static constexpr int kTables = 4, kMostTables = 4, kFewestOfBytes = 0;
  static constexpr int kVectors = 4, kPairPixels = 2, kSinglePixels = 4;
  static constexpr int kHalfPairPixels = 4, kHalfSinglePixels = 8;
  static constexpr int kBytePixels = 0, kHalfBytePixels = 0;
  static constexpr int kShortRow = 0;
  // 16-bit sums: `low` of even bytes and 256 times the odd ones, `high` of odd bytes.
  struct Single {
    Ints low, high;
  };

  static Ints table(const std::uint8_t* from) {
    return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static Ints pick(Ints table, Ints index) { return _mm512_shuffle_epi8(table, index); }
  // GCC would add in another order, which takes more registers than there are.
  static Ints add_bytes(Ints a, Ints b) {
    Ints sum = _mm512_add_epi8(a, b);
#if defined(__AVX512F__)  // no such register where it is emulated
    asm("" : "+v"(sum));
#endif
    return sum;
  }
  static Ints multiply32(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
  static Ints weigh(Ints sum, Ints bytes, Ints factor) {
    return _mm512_add_epi16(sum, _mm512_maddubs_epi16(bytes, factor));
  }
  // Of output channels 0 .. kLanes - 1, and of the others.
  static Ints first_words(Ints words) { return _mm512_and_si512(words, _mm512_set1_epi32(0xffff)); }
  static Ints last_words(Ints words) { return _mm512_srli_epi32(words, 16); }
  static Ints first_signed(Ints words) {
    return _mm512_srai_epi32(_mm512_slli_epi32(words, 16), 16);
  }
  static Ints last_signed(Ints words) { return _mm512_srai_epi32(words, 16); }
  static Ints multiply16(Ints a, Ints b) { return _mm512_mullo_epi16(a, b); }
  static Ints add16(Ints a, Ints b) { return _mm512_add_epi16(a, b); }
  static Ints spread16(std::int32_t value) {
    return _mm512_set1_epi16(static_cast<std::int16_t>(value));
  }
  static int word_place(int output) { return output % kLanes * 2 + output / kLanes; }
  static int pair_place(int output, int plane) { return 2 * word_place(output) + plane; }
  static Single count(Single sum, Ints bytes) {
    return {_mm512_add_epi16(sum.low, bytes),
            _mm512_add_epi16(sum.high, _mm512_srli_epi16(bytes, 8))};
  }
  static Single count_often(Single sum, Ints bytes) { return count(sum, bytes); }
  // Sums of output channels 0 .. 2 kLanes - 1, and of the others.
  static Ints first_of(Single sum) {
    return _mm512_sub_epi16(sum.low, _mm512_slli_epi16(sum.high, 8));
  }
  static Ints last_of(Single sum) { return sum.high; }
  static int single_place(int output) {
    const int quarter = output / kLanes;
    return output % kLanes * 4 + quarter % 2 * 2 + quarter / 2;
  }
  // 16 bytes of a row for each 16 of a vector: rows i, 16 + i, ..
  static Ints load_rows(const std::uint8_t* const* rows, std::int64_t at) {
    const auto from = [&](int i) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + at));
    };
    return join(from(0), from(16), from(32), from(48));
  }
  // Four times 16 bytes. Broadcasts from memory with masks take no shuffle, but four loads of 64
  // bytes: slower where one is done in a cycle.
  static Ints join(__m128i a, __m128i b, __m128i c, __m128i d) {
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(c), d, 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  static Ints interleave_low(Ints a, Ints b) { return _mm512_unpacklo_epi8(a, b); }
  static Ints interleave_high(Ints a, Ints b) { return _mm512_unpackhi_epi8(a, b); }
  static Ints exclusive(Ints a, Ints b) { return _mm512_xor_si512(a, b); }
  static Ints low_bits(Ints bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi8(15)); }
  static Ints high_bits(Ints bytes) { return low_bits(_mm512_srli_epi16(bytes, 4)); }
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
