// Bytes of a register from memory and to it: kChannels of one pixel, or of two or four.
#pragma once

#include "simd.h"

#if defined(RSQUANT_WORD_LEVELS)

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

#if defined(RSQUANT_WIDE_BYTES)
// Of 64 / kChannels pixels, `exist` channels of which are there.
template <int kChannels>
struct RegisterBytes {
  static constexpr int kPixels = static_cast<int>(sizeof(Ints)) / kChannels;

  // Bytes of a pixel that are read and written. Stores with a mask take longer.
  struct Mask {
    bool whole;
    __mmask64 bits;
  };
  static Mask mask(int exist) {
    const bool whole = exist >= kChannels;
    return {whole, whole ? ~__mmask64{0} : (__mmask64{1} << exist) - 1};
  }

  // Some pixels, `pixel` bytes apart.
  static __m512i load(const std::uint8_t* from, std::int64_t pixel, int some, Mask mask) {
    if constexpr (kPixels == 1) {
      return _mm512_maskz_loadu_epi8(mask.bits, from);
    } else if constexpr (kPixels == 2) {
      const __mmask32 half = static_cast<__mmask32>(mask.bits);
      return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi8(half, from)),
                                _mm256_maskz_loadu_epi8(half, from + (some > 1 ? pixel : 0)), 1);
    } else {
      const __mmask16 part = static_cast<__mmask16>(mask.bits);
      const auto at = [&](int p) __attribute__((always_inline)) {
        return _mm_maskz_loadu_epi8(part, from + (p < some ? p * pixel : 0));
      };
      const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(at(0)), at(1), 1);
      const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(at(2)), at(3), 1);
      return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
  }

  static void store(std::uint8_t* to, std::int64_t pixel, int some, Mask mask, __m512i v) {
    if constexpr (kPixels == 1) {
      if (mask.whole) return _mm512_storeu_si512(to, v);
      _mm512_mask_storeu_epi8(to, mask.bits, v);
    } else if constexpr (kPixels == 2) {
      store_half(to, mask, _mm512_castsi512_si256(v));
      if (some > 1) store_half(to + pixel, mask, _mm512_extracti64x4_epi64(v, 1));
    } else {
      store_part(to, mask, _mm512_castsi512_si128(v));
      if (some > 1) store_part(to + pixel, mask, _mm512_extracti32x4_epi32(v, 1));
      if (some > 2) store_part(to + 2 * pixel, mask, _mm512_extracti32x4_epi32(v, 2));
      if (some > 3) store_part(to + 3 * pixel, mask, _mm512_extracti32x4_epi32(v, 3));
    }
  }

  static void store_half(std::uint8_t* to, Mask mask, __m256i v) {
    if (mask.whole) return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v);
    _mm256_mask_storeu_epi8(to, static_cast<__mmask32>(mask.bits), v);
  }
  static void store_part(std::uint8_t* to, Mask mask, __m128i v) {
    if (mask.whole) return _mm_storeu_si128(reinterpret_cast<__m128i*>(to), v);
    _mm_mask_storeu_epi8(to, static_cast<__mmask16>(mask.bits), v);
  }

  // A table of bytes, of all pixels alike.
  static __m512i table(const void* from) {
    if constexpr (kPixels == 1) {
      return _mm512_loadu_si512(from);
    } else if constexpr (kPixels == 2) {
      return _mm512_broadcast_i64x4(_mm256_loadu_si256(static_cast<const __m256i*>(from)));
    } else {
      return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(from)));
    }
  }
};
#else
// Of 32 channels of a pixel or 16 of two, all of which are there, or are the caller's to keep.
template <int kChannels>
struct RegisterBytes {
  static constexpr int kPixels = static_cast<int>(sizeof(Ints)) / kChannels;

  struct Mask {};
  static Mask mask(int) { return {}; }
  static Ints load(const std::uint8_t* from, std::int64_t pixel, int some, Mask) {
    const auto at = [](const std::uint8_t* p) { return reinterpret_cast<const __m128i*>(p); };
    if constexpr (kPixels == 1) return _mm256_loadu_si256(reinterpret_cast<const Ints*>(from));
    return _mm256_loadu2_m128i(at(from + (some > 1 ? pixel : 0)), at(from));
  }
  static void store(std::uint8_t* to, std::int64_t pixel, int some, Mask, Ints v) {
    if constexpr (kPixels == 1) return _mm256_storeu_si256(reinterpret_cast<Ints*>(to), v);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(v));
    if (some < 2) return;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + pixel), _mm256_extracti128_si256(v, 1));
  }
  static Ints table(const void* from) {
    if constexpr (kPixels == 1) return _mm256_loadu_si256(static_cast<const Ints*>(from));
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(from)));
  }
};
#endif

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
