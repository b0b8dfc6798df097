// byte_epilogue.h for 64 channels at once, where a register holds their bytes.
//
// Four vectors of 32-bit numbers become two of 16 bits and one of bytes by packing within 16-byte
// parts, so bytes are in groups of four: groups j of the vectors follow each other. One
// permutation, its own inverse, changes between this order and that of memory.
#pragma once

#include "byte_epilogue.h"

#if defined(__AVX512BW__)
#define RSQUANT_WIDE_BYTES

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kWideGroup = 64;

// 64 channels of `count` pixels, all existing; otherwise as `finish_byte_group`. second: where the
// accumulators of the last 32 channels are, from those of the first on.
template <int T, bool kLarge>
[[gnu::noinline]] void finish_wide_group(const ByteEpilogue& e, const std::int32_t* acc, int stride,
                                         std::int64_t second, int count, int first,
                                         const BytePlaces& places) {
  constexpr int kTables = T > 0 ? T : 1;
  __m512i threshold[kTables], step[kTables], base = {};
  for (int k = 0; k < T; ++k) {
    threshold[k] = load(e.threshold[k] + first);
    step[k] = load(e.step[k] + first);
  }
  if constexpr (T > 0) base = load(e.base + first);
  Ints bias[4];
  Floats factor[4];
  for (int i = 0; i < 4; ++i) {
    bias[i] = load(e.bias + first + i * kLanes);
    factor[i] = load(e.factor + first + i * kLanes);
  }
  const Floats bottom = broadcast(static_cast<float>(e.low));
  const Floats top = broadcast(static_cast<float>(e.high));
  const __m512i low = _mm512_set1_epi16(e.low), high = _mm512_set1_epi16(e.high);
  const __m512i offset = _mm512_set1_epi16(e.offset);
  const __m512i least = _mm512_set1_epi16(e.least), most = _mm512_set1_epi16(e.most);
  const bool limited = e.least > 0 || e.most < 255;
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i flip = _mm512_set1_epi8(-128);
  const std::uint8_t* added = places.add;
  std::uint8_t* kept = places.keep;
  std::uint8_t* coded = places.codes;
  const std::int64_t add_pixel = places.add_pixel, keep_pixel = places.keep_pixel;
  const std::int64_t codes_pixel = places.codes_pixel;
  for (int p = 0; p < count; ++p, acc += stride) {
    Ints whole[4];
    for (int i = 0; i < 4; ++i) {
      Floats y = multiply(
          to_float(add(load(acc + (i < 2 ? i * kLanes : second + (i - 2) * kLanes)), bias[i])),
          factor[i]);
      if constexpr (kLarge) y = smallest(largest(y, bottom), top);
      whole[i] = round(y);
    }
    __m512i code[2] = {_mm512_packs_epi32(whole[0], whole[1]),
                       _mm512_packs_epi32(whole[2], whole[3])};
    if (added != nullptr) {
      const __m512i bytes = _mm512_permutexvar_epi32(order, load(added));
      added += add_pixel;
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
      store(kept, bytes);
      kept += keep_pixel;
    }
    if constexpr (T > 0) {
      const __m512i compared = _mm512_xor_si512(bytes, flip);
      __m512i level = base;
      for (int k = 0; k < T; ++k) {
        level = _mm512_mask_add_epi8(level, _mm512_cmpgt_epi8_mask(compared, threshold[k]), level,
                                     step[k]);
      }
      store(coded, level);
      coded += codes_pixel;
    }
  }
}

template <bool kLarge>
inline void finish_wide_as(const ByteEpilogue& e, const std::int32_t* acc, int stride,
                           std::int64_t second, int count, int first, const BytePlaces& places) {
  switch (e.thresholds) {
    case 0:
      return finish_wide_group<0, kLarge>(e, acc, stride, second, count, first, places);
    case 1:
      return finish_wide_group<1, kLarge>(e, acc, stride, second, count, first, places);
    case 3:
      return finish_wide_group<3, kLarge>(e, acc, stride, second, count, first, places);
    case 7:
      return finish_wide_group<7, kLarge>(e, acc, stride, second, count, first, places);
    default:
      return finish_wide_group<15, kLarge>(e, acc, stride, second, count, first, places);
  }
}

// Channels first .. first + 63 of `count` pixels of row y from column x on.
inline void finish_wide_row(const ByteEpilogue& e, const std::int32_t* acc, int stride,
                            std::int64_t second, int count, int y, int x, int first) {
  const BytePlaces places = places_of(e, y, x, first);
  if (e.large) {
    finish_wide_as<true>(e, acc, stride, second, count, first, places);
  } else {
    finish_wide_as<false>(e, acc, stride, second, count, first, places);
  }
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
