// Levels of accumulators by thresholds of 16 bits: conv.h's WordLevels. Twice as many numbers fit a
// register as of 32 bits.
//
// Four vectors of 32-bit numbers become two of 16 bits and one of bytes by packing within 16-byte
// parts. The vectors are those of one pixel, or of two or four of which there are fewer channels.
// Thresholds are put into the order of the packed words, bytes back into that of memory.
#pragma once

#include "conv.h"
#include "ending_sums.h"
#include "packed_words.h"
#include "ranks.h"
#include "register_bytes.h"
#include "simd.h"
#include "thresholds.h"

#if defined(RSQUANT_WORD_LEVELS)

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// The channels of Sums (ending_sums.h) of `count` pixels, `exist` of which are written.
template <int T, class Sums>
[[gnu::noinline]] void finish_word_group(const WordLevels& levels, Sums sums, int count, int first,
                                         int exist, std::uint8_t* codes, std::int64_t codes_pixel) {
  constexpr int kPixels = Sums::kPixels, kTables = Sums::kTables;
  constexpr int kRegisters = T <= 3         ? 1  // that share loads of the tables
                             : kLanes == 16 ? 4
                                            : 3;
  Ints threshold[T][kTables], step[T][kTables], base[kTables];
  const auto table = [&](int number, int i) {
    return Sums::table(levels.tables + number * levels.padded + first, i);
  };
  for (int i = 0; i < kTables; ++i) {
    for (int k = 0; k < T; ++k) {
      threshold[k][i] = table(k, i);
      step[k][i] = table(T + k, i);
    }
    base[i] = table(2 * T, i);
  }
  typedef RegisterBytes<Sums::kChannels> Bytes;
  const auto mask = Bytes::mask(exist);
  const auto shift = Sums::terms(levels.shift + first);

  const auto finish_pixels = [&](int some) __attribute__((always_inline)) {
    Ints word[kRegisters][2], level[kRegisters][2];
    for (int r = 0; r < kRegisters; ++r) {
      sums.words(shift, r * kPixels, some, word[r]);
      for (int i = 0; i < 2; ++i) level[r][i] = base[i % kTables];
    }
#pragma GCC unroll 7
    for (int k = 0; k < T; ++k) {
      for (int r = 0; r < kRegisters; ++r) {
        for (int i = 0; i < 2; ++i) {
          level[r][i] = Words16::add_where(level[r][i],
                                           Words16::greater(word[r][i], threshold[k][i % kTables]),
                                           step[k][i % kTables]);
        }
      }
    }
    for (int r = 0; r < kRegisters; ++r) {
      const int left = some - r * kPixels;
      if (left <= 0) break;
      Bytes::store(codes + r * kPixels * codes_pixel, codes_pixel, left, mask,
                   Sums::ordered(pack_bytes(level[r][0], level[r][1])));
    }
    sums.skip(some);
    codes += some * codes_pixel;
  };
  constexpr int kTogether = kRegisters * kPixels;
  for (; count >= kTogether; count -= kTogether) finish_pixels(kTogether);
  if (count > 0) finish_pixels(count);
}

// The same of 15 thresholds, which are in order.
template <class Sums>
[[gnu::noinline]] void finish_ranked_words(const WordLevels& levels, Sums sums, int count,
                                           int first, int exist, std::uint8_t* codes,
                                           std::int64_t codes_pixel) {
  constexpr int kTables = Sums::kTables;
  Ints threshold[kMaxThresholds][kTables];
  for (int k = 0; k < kMaxThresholds; ++k) {
    for (int i = 0; i < kTables; ++i) {
      threshold[k][i] = Sums::table(levels.tables + k * levels.padded + first, i);
    }
  }
  typedef RegisterBytes<Sums::kChannels> Bytes;
  const auto shift = Sums::terms(levels.shift + first);
  const RankBytes ranks = rank_bytes(levels.ranks, first, Bytes::table);
  const auto mask = Bytes::mask(exist);
  for (; count > 0; count -= Sums::kPixels) {
    Ints word[2], passed[2];
    sums.words(shift, 0, count, word);
    for (int i = 0; i < 2; ++i) {
      passed[i] = passed_of_15<Words16>(word[i], [&](int k) { return threshold[k][i % kTables]; });
    }
    Bytes::store(codes, codes_pixel, count, mask,
                 ranks.levels(Sums::ordered(pack_bytes(passed[0], passed[1]))));
    sums.skip(Sums::kPixels);
    codes += Sums::kPixels * codes_pixel;
  }
}

template <class Sums>
inline void finish_words(const Epilogue& e, const Sums& sums, int count, int first, int exist,
                         std::uint8_t* codes, std::int64_t pixel) {
  as_compiled(e.thresholds, [&]<int T>() {
    if constexpr (T == kMaxThresholds) {
      finish_ranked_words<Sums>(e.words, sums, count, first, exist, codes, pixel);
    } else {
      finish_word_group<T, Sums>(e.words, sums, count, first, exist, codes, pixel);
    }
  });
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
