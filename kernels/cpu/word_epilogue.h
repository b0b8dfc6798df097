// Levels of accumulators by thresholds of 16 bits: conv.h's WordLevels. Twice as many numbers fit a
// register as of 32 bits.
//
// Four vectors of 32-bit numbers become two of 16 bits and one of bytes by packing within 16-byte
// parts. The vectors are those of one pixel, or of two or four of which there are fewer channels.
// Thresholds are put into the order of the packed words, bytes back into that of memory.
#pragma once

#include "conv.h"
#include "packed_words.h"
#include "ranks.h"
#include "register_bytes.h"
#include "simd.h"
#include "thresholds.h"

#if defined(RSQUANT_WORD_LEVELS)

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// The pixels whose bytes, of kChannels channels each, fill a register.
template <int kChannels>
struct PackedPixels {
  static constexpr int kPixels = static_cast<int>(sizeof(Ints)) / kChannels;
  static constexpr int kVectors = 4 / kPixels;          // of a pixel
  static constexpr int kTables = kPixels == 1 ? 2 : 1;  // different ones of the two words

  // The i-th part of a table of 16 bits from channel `first` on.
  static Ints table(const WordLevels& levels, int number, int first, int i) {
    return packed_table<kPixels>(levels.tables + number * levels.padded + first, i);
  }

  // Accumulators as words, the first pixel's again for pixels that do not exist. shift: kVectors.
  [[gnu::always_inline]] static void words(const Ints* shift, const std::int32_t* acc, int stride,
                                           std::int64_t second, int pixel, int exist,
                                           Ints (&word)[2]) {
    Ints sum[4];
    for (int v = 0; v < 4; ++v) {
      const int p = pixel + v / kVectors, vector = v % kVectors;
      const std::int32_t* from = acc + (p < exist ? p : 0) * stride;
      from += vector < 2 ? vector * kLanes : second + (vector - 2) * kLanes;
      sum[v] = add(shift[vector], load(from));
    }
    for (int i = 0; i < 2; ++i) word[i] = pack_words(sum[2 * i], sum[2 * i + 1]);
  }
};

// kChannels channels of `count` pixels, `exist` of which are written. acc: `stride` accumulators
// from pixel to pixel. second: of 64 channels, where the last 32 are from the first on.
template <int T, int kChannels>
[[gnu::noinline]] void finish_word_group(const WordLevels& levels, const std::int32_t* acc,
                                         int stride, std::int64_t second, int count, int first,
                                         int exist, std::uint8_t* codes, std::int64_t codes_pixel) {
  typedef PackedPixels<kChannels> Packed;
  constexpr int kPixels = Packed::kPixels, kTables = Packed::kTables;
  constexpr int kRegisters = T <= 3         ? 1  // that share loads of the tables
                             : kLanes == 16 ? 4
                                            : 3;
  Ints threshold[T][kTables], step[T][kTables], base[kTables], shift[Packed::kVectors];
  for (int i = 0; i < kTables; ++i) {
    for (int k = 0; k < T; ++k) {
      threshold[k][i] = Packed::table(levels, k, first, i);
      step[k][i] = Packed::table(levels, T + k, first, i);
    }
    base[i] = Packed::table(levels, 2 * T, first, i);
  }
  const auto mask = RegisterBytes<kChannels>::mask(exist);
  for (int v = 0; v < Packed::kVectors; ++v) shift[v] = load(levels.shift + first + v * kLanes);

  const auto finish_pixels = [&](int some) __attribute__((always_inline)) {
    Ints word[kRegisters][2], level[kRegisters][2];
    for (int r = 0; r < kRegisters; ++r) {
      Packed::words(shift, acc, stride, second, r * kPixels, some, word[r]);
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
      RegisterBytes<kChannels>::store(codes + r * kPixels * codes_pixel, codes_pixel, left, mask,
                                      pack_bytes(level[r][0], level[r][1]));
    }
    acc += some * stride;
    codes += some * codes_pixel;
  };
  constexpr int kTogether = kRegisters * kPixels;
  for (; count >= kTogether; count -= kTogether) finish_pixels(kTogether);
  if (count > 0) finish_pixels(count);
}

// The same of 15 thresholds, which are in order.
template <int kChannels>
[[gnu::noinline]] void finish_ranked_words(const WordLevels& levels, const std::int32_t* acc,
                                           int stride, std::int64_t second, int count, int first,
                                           int exist, std::uint8_t* codes,
                                           std::int64_t codes_pixel) {
  typedef PackedPixels<kChannels> Packed;
  constexpr int kPixels = Packed::kPixels, kTables = Packed::kTables;
  Ints threshold[kMaxThresholds][kTables], shift[Packed::kVectors];
  for (int k = 0; k < kMaxThresholds; ++k) {
    for (int i = 0; i < kTables; ++i) threshold[k][i] = Packed::table(levels, k, first, i);
  }
  for (int v = 0; v < Packed::kVectors; ++v) shift[v] = load(levels.shift + first + v * kLanes);
  const RankBytes ranks = rank_bytes(levels.ranks, first, RegisterBytes<kChannels>::table);
  const auto mask = RegisterBytes<kChannels>::mask(exist);
  for (; count > 0; count -= kPixels) {
    Ints word[2], passed[2];
    Packed::words(shift, acc, stride, second, 0, count, word);
    for (int i = 0; i < 2; ++i) {
      passed[i] = passed_of_15<Words16>(word[i], [&](int k) { return threshold[k][i % kTables]; });
    }
    RegisterBytes<kChannels>::store(codes, codes_pixel, count, mask,
                                    ranks.levels(pack_bytes(passed[0], passed[1])));
    acc += kPixels * stride;
    codes += kPixels * codes_pixel;
  }
}

template <int kChannels>
inline void finish_words(const Epilogue& e, const std::int32_t* acc, int stride,
                         std::int64_t second, int count, int first, int exist, std::uint8_t* codes,
                         std::int64_t pixel) {
  as_compiled(e.thresholds, [&]<int T>() {
    if constexpr (T == kMaxThresholds) {
      finish_ranked_words<kChannels>(e.words, acc, stride, second, count, first, exist, codes,
                                     pixel);
    } else {
      finish_word_group<T, kChannels>(e.words, acc, stride, second, count, first, exist, codes,
                                      pixel);
    }
  });
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
