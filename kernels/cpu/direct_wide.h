// A direct convolution to levels whose sums never leave the registers: tiles of 64 output channels,
// 16-bit thresholds behind them. Where a window has few steps (1x1, few channels), storing and
// loading sums would take as long as adding them up. See direct.cpp; for sums of 32 bits in 512-bit
// registers.
#pragma once

#include "direct_tile.h"
#include "packed_words.h"
#include "ranks.h"

#if defined(RSQUANT_WIDE_BYTES)

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kWidePixels = 6;  // 24 sums of 32 registers

// What a tile needs of 64 channels, made once for a strip of pixels: tables in
// the order of packed words, which are 32 channels each.
struct WideLevels {
  alignas(64) std::int16_t tables[(2 * kMaxThresholds + 1) * kWideGroup];
  const std::int32_t* shift;
  RankBytes ranks;
};

inline void make_wide_levels(const Epilogue& e, int first, WideLevels& to) {
  to.shift = e.words.shift + first;
  for (int i = 0; i < 2 * e.thresholds + 1; ++i) {
    for (int half = 0; half < kWideGroup; half += 2 * kLanes) {
      const Ints words = load(e.words.tables + i * e.words.padded + first + half);
      store(to.tables + i * kWideGroup + half, packed_order(words));
    }
  }
  if (e.words.ranks.tables == nullptr) return;
  to.ranks = rank_bytes(e.words.ranks, first, [](const std::uint8_t* at) { return load(at); });
}

// Two blocks of weights, one `second` bytes behind the other.
struct WideWeights {
  const std::uint8_t* at;
  std::int64_t second;
};

template <class Dot, int P>
inline void add_wide_steps(const Pixels& pixels, const WideWeights& weights, std::int64_t count,
                           Ints (&sum)[P][4]) {
  const std::uint8_t* at[P];
  for (int p = 0; p < P; ++p) at[p] = pixels.window[p];
  const std::uint8_t *one = weights.at, *other = weights.at + weights.second;
  std::int64_t i = 0;
  do {
    const Ints w[4] = {load(one), load(one + sizeof(Ints)), load(other),
                       load(other + sizeof(Ints))};
    for (std::size_t line = 0; line < kStepBytes; line += 64) {
      __builtin_prefetch(one + kAhead + line);
      __builtin_prefetch(other + kAhead + line);
    }
#pragma GCC unroll 6
    for (int p = 0; p < P; ++p) {
      std::int32_t four;
      std::memcpy(&four, at[p] + 4 * i, 4);
      const Ints a = broadcast(four);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        sum[p][v] = Dot::step(sum[p][v], a, w[v]);
        asm("" : "+v"(sum[p][v]));  // GCC would keep a copy of each sum, in memory
      }
    }
    one += kStepBytes, other += kStepBytes;
  } while (++i < count);
}

// Levels of P pixels and 64 channels.
template <class Dot, int T, int P>
[[gnu::noinline]] void wide_levels(std::int64_t steps, const Pixels& pixels,
                                   const WideWeights& weights, const WideLevels& levels,
                                   std::uint8_t* const* out) {
  Ints sum[P][4];
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) {
    const Ints shift = load(levels.shift + v * kLanes);
#pragma GCC unroll 6
    for (int p = 0; p < P; ++p) sum[p][v] = shift;
  }
  add_wide_steps<Dot, P>(pixels, weights, steps, sum);
  // 24 registers become 12 before others are needed: the compiler would begin
  // with those.
  Ints word[P][2], level[P][2];
#pragma GCC unroll 6
  for (int p = 0; p < P; ++p) {
    word[p][0] = pack_words(sum[p][0], sum[p][1]);
    word[p][1] = pack_words(sum[p][2], sum[p][3]);
    asm("" : "+v"(word[p][0]), "+v"(word[p][1]));
  }
  const std::int16_t* table = levels.tables;
  asm("" : "+r"(table) : "v"(word[P - 1][1]));
  if constexpr (T == kMaxThresholds) {
#pragma GCC unroll 6
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        level[p][i] = passed_of_15<Words16>(
            word[p][i], [&](int k) { return load(table + k * kWideGroup + i * 2 * kLanes); });
      }
      store(out[p], levels.ranks.levels(pack_bytes(level[p][0], level[p][1])));
    }
    return;
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const Ints base = load(table + 2 * T * kWideGroup + i * 2 * kLanes);
#pragma GCC unroll 6
    for (int p = 0; p < P; ++p) level[p][i] = base;
  }
#pragma GCC unroll 15
  for (int k = 0; k < T; ++k, table += kWideGroup) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const Ints threshold = load(table + i * 2 * kLanes);
      const Ints step = load(table + T * kWideGroup + i * 2 * kLanes);
#pragma GCC unroll 6
      for (int p = 0; p < P; ++p) {
        level[p][i] = add_greater16(level[p][i], word[p][i], threshold, step);
      }
    }
  }
#pragma GCC unroll 6
  for (int p = 0; p < P; ++p) store(out[p], pack_bytes(level[p][0], level[p][1]));
}

// The same of `count` pixels, 1 to P.
template <class Dot, int T, int P>
inline void wide_levels_of(std::int64_t steps, const Pixels& pixels, const WideWeights& weights,
                           int count, const WideLevels& levels, std::uint8_t* const* out) {
  if constexpr (P > 1) {
    if (count < P) {
      return wide_levels_of<Dot, T, P - 1>(steps, pixels, weights, count, levels, out);
    }
  }
  wide_levels<Dot, T, P>(steps, pixels, weights, levels, out);
}

// The same with so many thresholds.
template <class Dot>
inline void wide_levels_any(int thresholds, std::int64_t steps, const Pixels& pixels,
                            const WideWeights& weights, int count, const WideLevels& levels,
                            std::uint8_t* const* out) {
  constexpr int kP = kWidePixels;
  switch (thresholds) {
    case 1:
      return wide_levels_of<Dot, 1, kP>(steps, pixels, weights, count, levels, out);
    case 3:
      return wide_levels_of<Dot, 3, kP>(steps, pixels, weights, count, levels, out);
    case 7:
      return wide_levels_of<Dot, 7, kP>(steps, pixels, weights, count, levels, out);
    default:
      return wide_levels_of<Dot, 15, kP>(steps, pixels, weights, count, levels, out);
  }
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
