// A direct convolution to levels whose sums never leave the registers: tiles of 64 or 32 output
// channels, 16-bit thresholds behind them. Where a window has few steps (1x1, few channels; the
// first convolution), storing and loading sums would take as long as adding them up. See
// direct.cpp; for sums of 32 bits in 512-bit registers.
#pragma once

#include "direct_tile.h"
#include "epilogue.h"
#include "packed_words.h"
#include "ranks.h"
#include "register_bytes.h"
#include "thresholds.h"

#if defined(RSQUANT_WIDE_BYTES)

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Pixels of a tile of V vectors: 24 sums of 32 registers. With two vectors two pixels fill a
// register of bytes, and their number is even.
template <int V>
constexpr int kWidePixels = 24 / V;
template <int V>
constexpr int kWideStep = 4 / V;

// What a tile needs of its channels, made once for a strip of pixels: tables in the order of packed
// words, which are 32 channels each.
template <int V>
struct WideLevels {
  alignas(64) std::int16_t tables[(2 * kMaxThresholds + 1) * V * kLanes];
  const std::int32_t* shift;
  RankBytes ranks;
};

template <int V>
inline void make_wide_levels(const Epilogue& e, int first, WideLevels<V>& to) {
  constexpr int kChannels = V * kLanes;
  to.shift = e.words.shift + first;
  // Of 15 thresholds ranks tell the rest.
  const bool ranked = e.words.ranks.tables != nullptr;
  for (int i = 0; i < (ranked ? kMaxThresholds : 2 * e.thresholds + 1); ++i) {
    for (int half = 0; half < kChannels; half += 2 * kLanes) {
      const Ints words = load(e.words.tables + i * e.words.padded + first + half);
      store(to.tables + i * kChannels + half, packed_order(words));
    }
  }
  if (ranked) to.ranks = rank_bytes(e.words.ranks, first, RegisterBytes<kChannels>::table);
}

// One block of weights or two, one `second` bytes behind the other.
struct WideWeights {
  const std::uint8_t* at;
  std::int64_t second;
};

// A window: runs of so many steps, and where each begins.
struct WideRuns {
  int count;
  std::int64_t steps;
  const std::int64_t* offset;
};

template <class Dot, int P, int V>
inline void add_wide_steps(const Pixels& pixels, const WideWeights& weights, const WideRuns& runs,
                           Ints (&sum)[P][V]) {
  const std::uint8_t *one = weights.at, *other = weights.at + weights.second;
  int run = 0;
  do {
    const std::uint8_t* at[P];
    for (int p = 0; p < P; ++p) at[p] = pixels.window[p] + runs.offset[run];
    std::int64_t i = 0;
    do {
      Ints w[V];
      w[0] = load(one), w[1] = load(one + sizeof(Ints));
      if constexpr (V == 4) w[2] = load(other), w[3] = load(other + sizeof(Ints));
      for (std::size_t line = 0; line < kStepBytes; line += 64) {
        __builtin_prefetch(one + kAhead + line);
        if constexpr (V == 4) __builtin_prefetch(other + kAhead + line);
      }
#pragma GCC unroll 12
      for (int p = 0; p < P; ++p) {
        std::int32_t four;
        std::memcpy(&four, at[p] + 4 * i, 4);
        const Ints a = broadcast(four);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          sum[p][v] = Dot::step(sum[p][v], a, w[v]);
          asm("" : "+v"(sum[p][v]));  // GCC would keep a copy of each sum, in memory
        }
      }
      one += kStepBytes, other += kStepBytes;
    } while (++i < runs.steps);
  } while (++run < runs.count);
}

// Levels of P pixels and V vectors of channels.
template <class Dot, int T, int V, int P>
[[gnu::noinline]] void wide_levels(const WideRuns& runs, const Pixels& pixels,
                                   const WideWeights& weights, const WideLevels<V>& levels,
                                   std::uint8_t* const* out) {
  constexpr int kChannels = V * kLanes, kWords = V / 2, kStep = kWideStep<V>;
  Ints sum[P][V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    const Ints shift = load(levels.shift + v * kLanes);
#pragma GCC unroll 12
    for (int p = 0; p < P; ++p) sum[p][v] = shift;
  }
  add_wide_steps<Dot, P, V>(pixels, weights, runs, sum);
  // 24 registers become 12 before others are needed: the compiler would begin with those.
  Ints word[P][kWords], level[P][kWords];
#pragma GCC unroll 12
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
    for (int i = 0; i < kWords; ++i) {
      word[p][i] = pack_words(sum[p][2 * i], sum[p][2 * i + 1]);
      asm("" : "+v"(word[p][i]));
    }
  }
  const std::int16_t* table = levels.tables;
  asm("" : "+r"(table) : "v"(word[P - 1][kWords - 1]));
  // Of one pixel, or two.
  const auto write = [&](int p) __attribute__((always_inline)) {
    Ints bytes = to_memory_order(pack_bytes(level[p][0], level[p + kStep - 1][kWords - 1]));
    if constexpr (T == kMaxThresholds) bytes = levels.ranks.levels(bytes);
    if constexpr (V == 4) {
      store(out[p], bytes);
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out[p]), _mm512_castsi512_si256(bytes));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out[p + 1]),
                          _mm512_extracti64x4_epi64(bytes, 1));
    }
  };
  if constexpr (T == kMaxThresholds) {
#pragma GCC unroll 12
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
      for (int i = 0; i < kWords; ++i) {
        level[p][i] = passed_of_15<Words16>(
            word[p][i], [&](int k) { return load(table + k * kChannels + i * 2 * kLanes); });
      }
      if (p % kStep == kStep - 1) write(p - kStep + 1);
    }
    return;
  }
#pragma GCC unroll 2
  for (int i = 0; i < kWords; ++i) {
    const Ints base = load(table + 2 * T * kChannels + i * 2 * kLanes);
#pragma GCC unroll 12
    for (int p = 0; p < P; ++p) level[p][i] = base;
  }
#pragma GCC unroll 15
  for (int k = 0; k < T; ++k, table += kChannels) {
#pragma GCC unroll 2
    for (int i = 0; i < kWords; ++i) {
      const Ints threshold = load(table + i * 2 * kLanes);
      const Ints step = load(table + T * kChannels + i * 2 * kLanes);
#pragma GCC unroll 12
      for (int p = 0; p < P; ++p) {
        level[p][i] =
            Words16::add_where(level[p][i], Words16::greater(word[p][i], threshold), step);
      }
    }
  }
#pragma GCC unroll 12
  for (int p = 0; p < P; p += kStep) write(p);
}

// The same of `count` pixels, a multiple of kWideStep, up to P.
template <class Dot, int T, int V, int P>
inline void wide_levels_of(const WideRuns& runs, const Pixels& pixels, const WideWeights& weights,
                           int count, const WideLevels<V>& levels, std::uint8_t* const* out) {
  constexpr int kStep = kWideStep<V>;
  if constexpr (P > kStep) {
    if (count < P) {
      return wide_levels_of<Dot, T, V, P - kStep>(runs, pixels, weights, count, levels, out);
    }
  }
  wide_levels<Dot, T, V, P>(runs, pixels, weights, levels, out);
}

// The same with so many thresholds.
template <class Dot, int V>
inline void wide_levels_any(int thresholds, const WideRuns& runs, const Pixels& pixels,
                            const WideWeights& weights, int count, const WideLevels<V>& levels,
                            std::uint8_t* const* out) {
  as_compiled(thresholds, [&]<int T>() {
    wide_levels_of<Dot, T, V, kWidePixels<V>>(runs, pixels, weights, count, levels, out);
  });
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
