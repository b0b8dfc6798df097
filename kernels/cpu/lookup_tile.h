// The loop of a convolution by tables: a tile of pixels times a block of output channels. See
// lookup.cpp.
#pragma once

#include "lookup_layout.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Pixels of a tile: as many as there are registers for, and so twice as many for a block of which
// no more than the first half exists.
constexpr int kPairPixels = Lookup::kPairPixels, kSinglePixels = Lookup::kSinglePixels;
constexpr int kHalfPair = kPairVectors / 2;
// Of a tile of byte sums; no more than of others where it was not timed.
constexpr int kBytePixels = Lookup::kBytePixels;
constexpr bool kByteTiles = kBytePixels > kPairPixels;
constexpr int kHalfPairPixels = kTables == 2 ? 6 : 2 * kPairPixels;
constexpr int kHalfSingle = kSingleVectors > 1 ? kSingleVectors / 2 : 1;
constexpr int kHalfSinglePixels = kTables == 2 ? 6 : kSingleVectors / kHalfSingle * kSinglePixels;

// Output pixels, in tiles of one size: where their windows begin, and S. Tiles follow each other in
// one call: of few steps, a call for each would take longer than its products.
struct Pixels {
  const std::uint8_t* const* window;
  const std::int32_t* sum;
  int tiles;
};

// What is added to the accumulators of a block: a pair of planes, or one.
struct Part {
  const std::uint8_t* factors;
  const std::uint8_t* index;
  Sum sum;
  const std::int32_t* offset;  // of the first part, which stores instead of adding; else null
  std::int64_t ahead;          // bytes from indices to those of the next block; 0: there is none
};

// Indices are read once for each tile of pixels, and a layer's do not fit the second-level cache:
// the first two tiles ask for those of the next block, half of them each, 128 of the 256 bytes of a
// step. Small maps have few tiles, and would wait for memory.
constexpr int kAheadBytes = 128;

// Calls step(first tables of each pixel, offset) for each step of a window, and widen() whenever
// `most` of them are done and others follow.
template <int P, class Step, class Widen>
[[gnu::always_inline]] inline void over_window(const ConvShape& s, const Layout& layout,
                                               const std::uint8_t* const* window, int most,
                                               const Step& step, const Widen& widen) {
  int left = most;
  for (int run = 0; run < layout.runs; ++run) {
    const std::int64_t offset = layout.run_offset(s, run);
    const std::uint8_t* at[P];
    for (int p = 0; p < P; ++p) at[p] = window[p] + offset;
    for (int done = 0; done < layout.run_steps;) {
      if (left == 0) {
        widen();
        left = most;
      }
      const int count = least(left, layout.run_steps - done);
      std::int64_t i = std::int64_t{done} * (kTables * kTable);
      for (int todo = count; todo > 0; --todo, i += kTables * kTable) step(at, i);
      done += count;
      left -= count;
    }
  }
}

// Byte sums of a step, of the first V of `vectors` vectors of indices; those of other steps go on.
template <int P, int V, bool kFirst = true>
[[gnu::always_inline]] inline void look_up(const std::uint8_t* const (&at)[P], std::int64_t offset,
                                           const std::uint8_t*& index, int vectors,
                                           Ints (&bytes)[P][V]) {
#pragma GCC unroll 4
  for (int t = 0; t < kTables; ++t) {
    Ints m[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) m[v] = load(index + v * kVectorBytes);
    index += vectors * kVectorBytes;
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      const Ints table = Lookup::table(at[p] + offset + t * kTable);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Ints some = Lookup::pick(table, m[v]);
        bytes[p][v] = kFirst && t == 0 ? some : Lookup::add_bytes(bytes[p][v], some);
      }
    }
  }
}

// The 16-bit sums of a pair of planes, and the 32-bit ones that full ones were added to (null: none
// was), to the accumulators.
template <int P, int V>
[[gnu::always_inline]] inline void finish_pair(const Ints (&sum)[P][V], const std::int32_t* wide,
                                               const std::int32_t* window_sum, const Part& part,
                                               std::int32_t* acc) {
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const int at = v * 2 * kLanes;
      Ints words[2] = {Lookup::first_words(sum[p][v]), Lookup::last_words(sum[p][v])};
      for (int half = 0; half < 2; ++half) {
        const int c = at + half * kLanes;
        std::int32_t* to = acc + p * kBlock + c;
        Ints all = words[half];
        if (wide != nullptr) all = add(all, load(wide + p * kBlock + c));
        if (part.sum.doubled != 0) all = add(all, all);
        const Ints before = part.offset == nullptr ? load(to)
                                                   : Lookup::multiply32(load(part.offset + c),
                                                                        broadcast(window_sum[p]));
        store(to, add(before, all));
      }
    }
  }
}

// Adds a pair of planes to the accumulators of P pixels and the first V vectors of output channels
// of a block.
template <int P, int V>
[[gnu::always_inline]] inline void add_pair_tile(const ConvShape& s, const Layout& layout,
                                                 const std::uint8_t* const* window,
                                                 const std::int32_t* window_sum, const Part& part,
                                                 std::int64_t ahead, std::int32_t* acc) {
  Ints sum[P][V];
  alignas(64) std::int32_t wide[P * kBlock];  // of sums that were full
  bool empty = true;
  const auto clear = [&] {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[p][v] = Ints{};
    }
  };
  clear();
  const std::uint8_t *index = part.index, *factors = part.factors;
  over_window<P>(
      s, layout, window, part.sum.steps,
      [&](const std::uint8_t* const(&at)[P], std::int64_t offset) [[gnu::always_inline]] {
        if constexpr (kTables == 2) {
          Ints low[P], high[P];
#pragma GCC unroll 16
          for (int p = 0; p < P; ++p) {
            low[p] = Lookup::table(at[p] + offset);
            high[p] = Lookup::table(at[p] + offset + kTable);
          }
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) {
            const Ints first = load(index + v * kVectorBytes);
            const Ints second = load(index + (kPairVectors + v) * kVectorBytes);
            const Ints factor = load(factors + v * kVectorBytes);
#pragma GCC unroll 16
            for (int p = 0; p < P; ++p) {
              const Ints bytes =
                  Lookup::add_bytes(Lookup::pick(low[p], first), Lookup::pick(high[p], second));
              sum[p][v] = Lookup::weigh(sum[p][v], bytes, factor);
            }
          }
          index += 2 * kPairVectors * kVectorBytes;
          asm("" : "+r"(factors));
          return;
        }
        for (int line = 0; line < kAheadBytes; line += 64) {
          __builtin_prefetch(index + ahead + line, 0, 2);
        }
        Ints bytes[P][V];
        look_up<P, V>(at, offset, index, kPairVectors, bytes);
        asm("" : "+r"(factors));  // or their vectors would stay in registers that sums need
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const Ints factor = load(factors + v * kVectorBytes);
#pragma GCC unroll 16
          for (int p = 0; p < P; ++p) sum[p][v] = Lookup::weigh(sum[p][v], bytes[p][v], factor);
        }
      },
      [&] {
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) {
            std::int32_t* to = wide + p * kBlock + v * 2 * kLanes;
            Ints low = Lookup::first_words(sum[p][v]), high = Lookup::last_words(sum[p][v]);
            if (!empty) low = add(low, load(to)), high = add(high, load(to + kLanes));
            store(to, low);
            store(to + kLanes, high);
          }
        }
        empty = false;
        clear();
      });
  finish_pair<P, V>(sum, empty ? nullptr : wide, window_sum, part, acc);
}

// The same where bytes hold the sums of several steps: there are registers for those of twice as
// many pixels, and 16-bit sums, in memory, are added to once for these steps.
template <int P, int V>
[[gnu::always_inline]] inline void add_byte_tile(const ConvShape& s, const Layout& layout,
                                                 const std::uint8_t* const* window,
                                                 const std::int32_t* window_sum, const Part& part,
                                                 std::int64_t ahead, std::int32_t* acc) {
  Ints bytes[P][V];
  Ints words[P][V];
  alignas(64) std::int32_t wide[P * kBlock];
  bool empty = true;
  const auto clear = [&](Ints(&of)[P][V]) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) of[p][v] = Ints{};
    }
  };
  clear(bytes);
  clear(words);
  int left = part.sum.groups;
  const auto to_words = [&] {
    for (int v = 0; v < V; ++v) {
      const Ints factor = load(part.factors + v * kVectorBytes);
      for (int p = 0; p < P; ++p) words[p][v] = Lookup::weigh(words[p][v], bytes[p][v], factor);
    }
  };
  const std::uint8_t* index = part.index;
  over_window<P>(
      s, layout, window, part.sum.together,
      [&](const std::uint8_t* const(&at)[P], std::int64_t offset) [[gnu::always_inline]] {
        for (int line = 0; line < kAheadBytes; line += 64) {
          __builtin_prefetch(index + ahead + line, 0, 2);
        }
        look_up<P, V, false>(at, offset, index, kPairVectors, bytes);
      },
      [&] {
        to_words();
        clear(bytes);
        if (--left > 0) return;
        left = part.sum.groups;
        for (int p = 0; p < P; ++p) {
          for (int v = 0; v < V; ++v) {
            std::int32_t* to = wide + p * kBlock + v * 2 * kLanes;
            Ints low = Lookup::first_words(words[p][v]), high = Lookup::last_words(words[p][v]);
            if (!empty) low = add(low, load(to)), high = add(high, load(to + kLanes));
            store(to, low);
            store(to + kLanes, high);
          }
        }
        empty = false;
        clear(words);
      });
  to_words();
  finish_pair<P, V>(words, empty ? nullptr : wide, window_sum, part, acc);
}

// The same of a single plane.
template <int P, int V>
[[gnu::always_inline]] inline void add_single_tile(const ConvShape& s, const Layout& layout,
                                                   const std::uint8_t* const* window,
                                                   const std::int32_t* window_sum, const Part& part,
                                                   std::int32_t* acc) {
  if (part.offset != nullptr) {
    for (int p = 0; p < P; ++p) {
      const Ints all = broadcast(window_sum[p]);
      for (int c = 0; c < kBlock; c += kLanes) {
        store(acc + p * kBlock + c, Lookup::multiply32(load(part.offset + c), all));
      }
    }
  }
  Lookup::Single sum[P][V];
  const auto clear = [&] {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[p][v] = Lookup::Single{};
    }
  };
  const auto widen = [&] {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        Lookup::add_single(acc + p * kBlock + v * 4 * kLanes, sum[p][v],
                           part.factors + v * 4 * kVectorBytes);
      }
    }
    clear();
  };
  clear();
  const std::uint8_t* index = part.index;
  over_window<P>(
      s, layout, window, part.sum.steps,
      [&](const std::uint8_t* const(&at)[P], std::int64_t offset) [[gnu::always_inline]] {
        Ints bytes[P][V];
        look_up<P, V>(at, offset, index, kSingleVectors, bytes);
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sum[p][v] = Lookup::count(sum[p][v], bytes[p][v]);
        }
      },
      widen);
  widen();
}

// Not inlined: their loops need every register.
template <int P, int V, bool kBytes>
[[gnu::noinline]] void add_pair(const ConvShape& s, const Layout& layout, const Pixels& pixels,
                                const Part& part, std::int32_t* acc) {
  for (int tile = 0; tile < pixels.tiles; ++tile) {
    const std::int64_t ahead = part.ahead != 0 && tile < 2 ? part.ahead + tile * kAheadBytes : 0;
    const std::uint8_t* const* window = pixels.window + tile * P;
    const std::int32_t* sum = pixels.sum + tile * P;
    std::int32_t* to = acc + tile * P * kBlock;
    if constexpr (kBytes) {
      add_byte_tile<P, V>(s, layout, window, sum, part, ahead, to);
    } else {
      add_pair_tile<P, V>(s, layout, window, sum, part, ahead, to);
    }
  }
}

template <int P, int V>
[[gnu::noinline]] void add_single(const ConvShape& s, const Layout& layout, const Pixels& pixels,
                                  const Part& part, std::int32_t* acc) {
  for (int tile = 0; tile < pixels.tiles; ++tile) {
    add_single_tile<P, V>(s, layout, pixels.window + tile * P, pixels.sum + tile * P, part,
                          acc + tile * P * kBlock);
  }
}

typedef void (*Add)(const ConvShape&, const Layout&, const Pixels&, const Part&, std::int32_t*);

template <int P, int V, bool kBytes = false>
inline Add pair_of(int count) {
  if constexpr (P > 1) {
    if (count < P) return pair_of<P - 1, V, kBytes>(count);
  }
  return add_pair<P, V, kBytes>;
}

template <int P, int V>
inline Add single_of(int count) {
  if constexpr (P > 1) {
    if (count < P) return single_of<P - 1, V>(count);
  }
  return add_single<P, V>;
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
