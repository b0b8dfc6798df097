// byte_epilogue.h where a register holds 64 bytes: of 64 channels, or of 32 or 16 channels of two
// or four pixels. Of the last of them some need not exist.
//
// Four vectors of 32-bit numbers become two of 16 bits and one of bytes by packing within 16-byte
// parts, so bytes are in groups of four: groups j of the vectors follow each other. One
// permutation, its own inverse, changes between this order and that of memory.
#pragma once

#include "byte_epilogue.h"
#include "epilogue.h"
#include "packed_words.h"
#include "ranks.h"

#if defined(RSQUANT_WIDE_BYTES)

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// kChannels bytes of each of 64 / kChannels pixels, of which `exist` are there.
template <int kChannels>
struct WideBytes {
  static constexpr int kPixels = kWideGroup / kChannels;

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

// Where the accumulators of vector v of a register of bytes are: of the first pixel's first
// vectors, `stride` from pixel to pixel; of 64 channels the last 32 are `second` behind the first.
template <int kChannels>
inline const std::int32_t* wide_sums(const std::int32_t* acc, int stride, std::int64_t second,
                                     int some, int v) {
  constexpr int kOfPixel = kChannels / kLanes;
  const int pixel = v / kOfPixel, vector = v % kOfPixel;
  return acc + (pixel < some ? pixel : 0) * stride +
         (vector < 2 ? vector * kLanes : second + (vector - 2) * kLanes);
}

// kChannels channels of `count` pixels, `exist` of which are written; otherwise as
// `finish_byte_group`. second: see `wide_sums`.
template <int T, bool kLarge, int kChannels>
[[gnu::noinline]] void finish_wide_group(const ByteEpilogue& e, const std::int32_t* acc, int stride,
                                         std::int64_t second, int count, int first, int exist,
                                         const BytePlaces& places) {
  typedef WideBytes<kChannels> Wide;
  constexpr int kOfPixel = kChannels / kLanes;  // vectors of accumulators
  constexpr int kTables = T > 0 ? T : 1;
  __m512i threshold[kTables], step[kTables], base = {};
  for (int k = 0; k < T; ++k) {
    threshold[k] = Wide::table(e.threshold[k] + first);
    step[k] = Wide::table(e.step[k] + first);
  }
  if constexpr (T > 0) base = Wide::table(e.base + first);
  const bool ranked = e.ranks.tables != nullptr;
  RankBytes ranks = {};
  if (T == kMaxThresholds && ranked) ranks = rank_bytes(e.ranks, first, Wide::table);
  Ints bias[kOfPixel];
  Floats factor[kOfPixel];
  for (int i = 0; i < kOfPixel; ++i) {
    bias[i] = load(e.bias + first + i * kLanes);
    factor[i] = load(e.factor + first + i * kLanes);
  }
  const Floats bottom = broadcast(static_cast<float>(e.low));
  const Floats top = broadcast(static_cast<float>(e.high));
  const __m512i low = _mm512_set1_epi16(e.low), high = _mm512_set1_epi16(e.high);
  const __m512i offset = _mm512_set1_epi16(e.offset);
  const __m512i least = _mm512_set1_epi16(e.least), most = _mm512_set1_epi16(e.most);
  const bool limited = e.least > 0 || e.most < 255;
  const __m512i order = wide_order(), flip = _mm512_set1_epi8(-128);
  const typename Wide::Mask mask = Wide::mask(exist);
  const std::uint8_t* added = places.add;
  std::uint8_t* kept = places.keep;
  std::uint8_t* coded = places.codes;
  const std::int64_t add_pixel = places.add_pixel, keep_pixel = places.keep_pixel;
  const std::int64_t codes_pixel = places.codes_pixel;

  const auto finish_pixels = [&](int some) __attribute__((always_inline)) {
    Ints whole[4];
    for (int v = 0; v < 4; ++v) {
      const Ints sum =
          add(load(wide_sums<kChannels>(acc, stride, second, some, v)), bias[v % kOfPixel]);
      Floats y = multiply(to_float(sum), factor[v % kOfPixel]);
      if constexpr (kLarge) y = smallest(largest(y, bottom), top);
      whole[v] = round(y);
    }
    acc += some * stride;
    __m512i code[2] = {_mm512_packs_epi32(whole[0], whole[1]),
                       _mm512_packs_epi32(whole[2], whole[3])};
    if (added != nullptr) {
      const __m512i bytes =
          _mm512_permutexvar_epi32(order, Wide::load(added, add_pixel, some, mask));
      added += some * add_pixel;
      const __m512i wide[2] = {_mm512_unpacklo_epi8(bytes, _mm512_setzero_si512()),
                               _mm512_unpackhi_epi8(bytes, _mm512_setzero_si512())};
      for (int i = 0; i < 2; ++i) {
        code[i] = _mm512_min_epi16(_mm512_max_epi16(code[i], low), high);
        code[i] = _mm512_adds_epi16(code[i], wide[i]);
      }
    }
    for (int i = 0; i < 2; ++i) {
      code[i] = _mm512_adds_epi16(code[i], offset);
      if (limited) code[i] = _mm512_min_epi16(_mm512_max_epi16(code[i], least), most);
    }
    const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(code[0], code[1]));
    if (kept != nullptr) {
      Wide::store(kept, keep_pixel, some, mask, bytes);
      kept += some * keep_pixel;
    }
    if constexpr (T > 0) {
      const __m512i compared = _mm512_xor_si512(bytes, flip);
      if constexpr (T == kMaxThresholds) {
        if (ranked) {
          const Ints passed = passed_of_15<Bytes8>(compared, [&](int k) { return threshold[k]; });
          Wide::store(coded, codes_pixel, some, mask, ranks.levels(passed));
          coded += some * codes_pixel;
          return;
        }
      }
      __m512i level = base;
      for (int k = 0; k < T; ++k) {
        level = _mm512_mask_add_epi8(level, _mm512_cmpgt_epi8_mask(compared, threshold[k]), level,
                                     step[k]);
      }
      Wide::store(coded, codes_pixel, some, mask, level);
      coded += some * codes_pixel;
    }
  };
  for (; count >= Wide::kPixels; count -= Wide::kPixels) finish_pixels(Wide::kPixels);
  if (count > 0) finish_pixels(count);
}

// Channels first .. first + kChannels - 1, `exist` of them, of `count` pixels of row y from x on.
template <int kChannels>
inline void finish_wide_row(const ByteEpilogue& e, const std::int32_t* acc, int stride,
                            std::int64_t second, int count, int y, int x, int first, int exist) {
  const BytePlaces places = places_of(e, y, x, first);
  as_compiled(e, [&]<int T, bool kLarge>() {
    finish_wide_group<T, kLarge, kChannels>(e, acc, stride, second, count, first, exist, places);
  });
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
