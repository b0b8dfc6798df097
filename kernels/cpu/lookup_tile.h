// Tiles of a convolution by tables: pixels times a block of output channels. See lookup.cpp.
#pragma once

#include "lookup_steps.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Indices are read once for each tile of pixels, and a layer's do not fit the second-level cache:
// the first tiles ask for those of the next block, each for half of them: two of four, since those
// of a first row leave out a row of taps. Small maps have few tiles, and would wait for memory. A
// step has 256 bytes with AVX2 and NEON, and with tables of 64 bytes in tiles of byte sums. (Other
// tiles with such tables lose by asking. With AVX-512 without VBMI it has four times as many, which
// were not timed.)
constexpr int kAheadBytes = 128;

template <int P, int V>
[[gnu::always_inline]] inline void clear(Ints (&sums)[P][V]) {
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[p][v] = Ints{};
  }
}

// Adds a pair of planes to the accumulators of P pixels and the first V vectors of output channels
// of a block.
template <int P, int V, int T, bool kNarrow>
[[gnu::always_inline]] inline void add_pair_tile(const ConvShape& s, const Layout& layout,
                                                 const std::uint8_t* const* window,
                                                 const std::int32_t* window_sum, const Part& part,
                                                 std::int64_t ahead, std::int32_t* acc) {
  Ints sum[P][V];
  WideSums<P> wide;
  clear(sum);
  const std::uint8_t *index = part.index, *factors = part.factors;
  over_window<T, false>(
      s, layout, part,
      [&](std::int64_t offset, Without<false>) [[gnu::always_inline]] {
        if constexpr (!kWholeTables) {
          for (int line = 0; line < kAheadBytes; line += 64) {
            __builtin_prefetch(index + ahead + line, 0, 2);
          }
        }
        asm("" : "+r"(factors));  // or their vectors would stay in registers that sums need
        sum_tables<T, P, V>(window, offset, index, [&](int p, int v, Ints bytes) {
          sum[p][v] = Lookup::weigh(sum[p][v], bytes, load(factors + v * kVectorBytes));
        });
      },
      [&](int to) {
        if (!kNarrow && (to & kToWide) != 0) {
          alignas(64) std::uint8_t words[P * V * kVectorBytes];
#pragma GCC unroll 16
          for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) store(words + (p * V + v) * kVectorBytes, sum[p][v]);
          }
          widen_words(words, P, V, wide.sums, wide.any);
          wide.any = true;
          clear(sum);
        }
      });
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      finish_words<kNarrow>(sum[p][v], v, wide.any ? wide.sums + p * kBlock : nullptr,
                            window_sum[p], part, acc + p * kPixelStride<kNarrow>);
    }
  }
}

// The same where bytes hold the sums of several steps: there are registers for those of more
// pixels, and 16-bit sums, in memory, are added to once for these steps.
template <int P, int V, int T, bool kNarrow, bool kEnds>
[[gnu::always_inline]] inline void add_byte_tile(const ConvShape& s, const Layout& layout,
                                                 const std::uint8_t* const* window,
                                                 const std::int32_t* window_sum, const Part& part,
                                                 std::int64_t ahead, std::int32_t* acc) {
  Ints bytes[P][V];
  alignas(64) std::uint8_t room[P * V * kVectorBytes];
  std::uint8_t* words = room;
  asm("" : "+r"(words));  // or GCC moves them between registers and several places in memory
  WideSums<P> wide;
  bool begun = false;  // words hold sums
  // Calls with each vector's 16-bit sums, those of `bytes` among them.
  const auto with_words = [&](const auto& take) [[gnu::always_inline]] {
    Ints factor[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) factor[v] = load(part.factors + v * kVectorBytes);
    const auto all = [&](const auto& before) [[gnu::always_inline]] {
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          take(p, v, Lookup::weigh(before(p, v), bytes[p][v], factor[v]));
        }
      }
    };
    if (begun) {
      all([&](int p, int v) { return load(words + (p * V + v) * kVectorBytes); });
    } else {
      all([&](int, int) { return Ints{}; });
    }
  };
  const auto to_words = [&] {
    with_words([&](int p, int v, Ints sum) { store(words + (p * V + v) * kVectorBytes, sum); });
    begun = true;
  };
  clear(bytes);
  const std::uint8_t* index = part.index;
  over_window<T, kEnds>(
      s, layout, part,
      [&](std::int64_t offset, Without<kEnds> without) [[gnu::always_inline]] {
        for (int line = 0; line < kAheadBytes; line += 64) {
          __builtin_prefetch(index + ahead + line, 0, 2);
        }
        add_tables<T, P, V>(window, offset, index, without, bytes);
      },
      [&](int to) {
        to_words();
        clear(bytes);
        if (!kNarrow && (to & kToWide) != 0) {
          widen_words(words, P, V, wide.sums, wide.any);
          wide.any = true;
          begun = false;
        }
      });
  if constexpr (kNarrow) {
    with_words([&](int p, int v, Ints sum) [[gnu::always_inline]] {
      finish_words<true>(sum, v, nullptr, window_sum[p], part, acc + p * kPixelStride<kNarrow>);
    });
  } else {
    to_words();
    finish_all_words(words, P, V, wide.any ? wide.sums : nullptr, window_sum, part, acc);
  }
}

// A single plane. With kBytes, one holds several steps.
template <int P, int V, int T, bool kBytes, bool kNarrow, bool kEnds>
[[gnu::always_inline]] inline void add_single_tile(const ConvShape& s, const Layout& layout,
                                                   const std::uint8_t* const* window,
                                                   const std::int32_t* window_sum, const Part& part,
                                                   std::int32_t* acc) {
  Ints bytes[P][V];
  Lookup::Single sum[P][V];
  bool stored = part.offset == nullptr;  // something is in the accumulators
  const auto to_accumulators = [&] {
    if constexpr (kNarrow) {
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const auto finish = [&](Ints words, int at) {
            finish_plane<true>(words, at, true, window_sum[p], part,
                               acc + p * kPixelStride<kNarrow>);
          };
          finish(Lookup::first_of(sum[p][v]), 2 * v);
          finish(Lookup::last_of(sum[p][v]), 2 * v + 1);
        }
      }
    } else {
      alignas(64) std::uint8_t words[P * V * 2 * kVectorBytes];
      std::uint8_t* to = words;
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v, to += 2 * kVectorBytes) {
          store(to, Lookup::first_of(sum[p][v]));
          store(to + kVectorBytes, Lookup::last_of(sum[p][v]));
          sum[p][v] = Lookup::Single{};
        }
      }
      add_planes(words, P, 2 * V, stored, window_sum, part, acc);
      stored = true;
    }
  };
  const auto to_words = [&] {
    if constexpr (kBytes) {
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[p][v] = Lookup::count(sum[p][v], bytes[p][v]);
      }
      clear(bytes);
    }
  };
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[p][v] = Lookup::Single{};
  }
  clear(bytes);
  const std::uint8_t* index = part.index;
  over_window<T, kEnds>(
      s, layout, part,
      [&](std::int64_t offset, Without<kEnds> without) [[gnu::always_inline]] {
        if constexpr (kBytes) {
          add_tables<T, P, V>(window, offset, index, without, bytes);
        } else {
          sum_tables<T, P, V>(window, offset, index, [&](int p, int v, Ints some) {
            sum[p][v] = Lookup::count_often(sum[p][v], some);
          });
        }
      },
      [&](int to) {
        if ((to & kToWords) != 0) to_words();
        if (!kNarrow && (to & kToWide) != 0) to_accumulators();
      });
  to_words();
  to_accumulators();
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
