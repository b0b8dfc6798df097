// byte_epilogue.h of 32 channels where a register holds 32 bytes: half the stores of 16 channels of
// two pixels.
//
// Four vectors of 32-bit numbers become two of 16 bits and one of bytes by packing within 16-byte
// parts, so bytes are in groups of four. One permutation changes this order to that of memory,
// another one back.
#pragma once

#include "byte_epilogue.h"
#include "ranks.h"

#if defined(RSQUANT_AVX2)
#define RSQUANT_PAIR_BYTES

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kPairChannels = 32;

// 32 channels of `count` pixels, all existing; otherwise as `finish_byte_group`.
template <int T, bool kLarge>
[[gnu::noinline]] void finish_pair_group(const ByteEpilogue& e, const std::int32_t* acc, int stride,
                                         int count, int first, const BytePlaces& places) {
  constexpr int kTables = T > 0 ? T : 1;
  const auto bytes_at = [](const void* from) { return (ByteVector)load(from); };
  SignedByteVector threshold[kTables];
  ByteVector step[kTables], base = {};
  for (int k = 0; k < T; ++k) {
    threshold[k] = (SignedByteVector)load(e.threshold[k] + first);
    step[k] = bytes_at(e.step[k] + first);
  }
  if constexpr (T > 0) base = bytes_at(e.base + first);
  const bool ranked = e.ranks.tables != nullptr;
  RankBytes ranks = {};
  if (T == kMaxThresholds && ranked) {
    ranks = rank_bytes(e.ranks, first, [](const std::uint8_t* at) { return load(at); });
  }
  Ints bias[4];
  Floats factor[4];
  for (int i = 0; i < 4; ++i) {
    bias[i] = load(e.bias + first + i * kLanes);
    factor[i] = load(e.factor + first + i * kLanes);
  }
  const Floats bottom = broadcast(static_cast<float>(e.low));
  const Floats top = broadcast(static_cast<float>(e.high));
  const __m256i low = _mm256_set1_epi16(e.low), high = _mm256_set1_epi16(e.high);
  const __m256i offset = _mm256_set1_epi16(e.offset);
  const __m256i least = _mm256_set1_epi16(e.least), most = _mm256_set1_epi16(e.most);
  const bool limited = e.least > 0 || e.most < 255;
  const __m256i to_memory = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i from_memory = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
  // Stores of bytes may change anything, so what the loop needs is copied.
  const std::uint8_t* added = places.add;
  std::uint8_t* kept = places.keep;
  std::uint8_t* coded = places.codes;
  const std::int64_t add_pixel = places.add_pixel, keep_pixel = places.keep_pixel;
  const std::int64_t codes_pixel = places.codes_pixel;
  for (; count > 0; --count, acc += stride) {
    Ints whole[4];
    for (int i = 0; i < 4; ++i) {
      Floats y = multiply(to_float(add(load(acc + i * kLanes), bias[i])), factor[i]);
      if constexpr (kLarge) y = smallest(largest(y, bottom), top);
      whole[i] = round(y);
    }
    __m256i code[2] = {_mm256_packs_epi32(whole[0], whole[1]),
                       _mm256_packs_epi32(whole[2], whole[3])};
    if (added != nullptr) {
      const __m256i bytes = _mm256_permutevar8x32_epi32(load(added), from_memory);
      added += add_pixel;
      const __m256i wide[2] = {_mm256_unpacklo_epi8(bytes, _mm256_setzero_si256()),
                               _mm256_unpackhi_epi8(bytes, _mm256_setzero_si256())};
      for (int i = 0; i < 2; ++i) {
        code[i] =
            _mm256_adds_epi16(_mm256_min_epi16(_mm256_max_epi16(code[i], low), high), wide[i]);
      }
    }
    for (int i = 0; i < 2; ++i) {
      code[i] = _mm256_adds_epi16(code[i], offset);
      if (limited) code[i] = _mm256_min_epi16(_mm256_max_epi16(code[i], least), most);
    }
    const ByteVector bytes =
        (ByteVector)_mm256_permutevar8x32_epi32(_mm256_packus_epi16(code[0], code[1]), to_memory);
    if (kept != nullptr) {
      store(kept, (Ints)bytes);
      kept += keep_pixel;
    }
    if constexpr (T > 0) {
      const auto write = [&](Ints levels) __attribute__((always_inline)) {
        store(coded, levels);
        coded += codes_pixel;
      };
      if constexpr (T == kMaxThresholds) {
        if (ranked) {
          write(ranks.levels(passed_of_15<Bytes8>((Ints)(bytes ^ 128),
                                                  [&](int k) { return (Ints)threshold[k]; })));
          continue;
        }
      }
      write((Ints)levels_of<T>(bytes, threshold, step, base));
    }
  }
}

// Channels first .. first + 31 of `count` pixels of row y from column x on.
inline void finish_pair_bytes(const ByteEpilogue& e, const std::int32_t* acc, int stride, int count,
                              int y, int x, int first) {
  const BytePlaces places = places_of(e, y, x, first);
  as_compiled(e, [&]<int T, bool kLarge>() {
    finish_pair_group<T, kLarge>(e, acc, stride, count, first, places);
  });
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
