// The loop of a convolution by tables: a tile of pixels times a block of output channels. See
// lookup.cpp.
#pragma once

#include "lookup_layout.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Pixels of a tile: as many as there are registers for; of a block of which no more than the first
// half exists there may be more.
constexpr int kPairPixels = Lookup::kPairPixels, kSinglePixels = Lookup::kSinglePixels;
constexpr int kHalfPair = kPairVectors / 2;
constexpr int kHalfPairPixels = Lookup::kHalfPairPixels;
constexpr int kHalfSingle = kSingleVectors > 1 ? kSingleVectors / 2 : 1;
constexpr int kHalfSinglePixels = Lookup::kHalfSinglePixels;

// Tables of six channels, of which a step has any number.
constexpr bool kWholeTables = kChannels == 6;

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
  const Segment* segments;
  Sum sum;
  // Of the first part, which stores instead of adding; else null. Of narrow sums, 16 bits each.
  const std::int32_t* offset;
  std::int64_t ahead;  // bytes from indices to those of the next block; 0: there is none
};

// Indices are read once for each tile of pixels, and a layer's do not fit the second-level cache:
// the first two tiles ask for those of the next block, half of them each. Small maps have few
// tiles, and would wait for memory. A step has 256 bytes with AVX2 and NEON, and with tables of 64
// bytes in tiles of byte sums. (Other tiles with such tables lose by asking. With AVX-512 without
// VBMI it has four times as many, which were not timed.)
constexpr int kAheadBytes = 128;

// Calls step(offset from each pixel's window) for each step of T tables, and widen(where to) where
// the sums behind them are to be widened.
template <int T, class Step, class Widen>
[[gnu::always_inline]] inline void over_window(const ConvShape& s, const Layout& layout,
                                               const Segment* segment, const Step& step,
                                               const Widen& widen) {
  int run = 0;
  std::int64_t offset = 0;
  for (;; ++segment) {
    for (int todo = segment->steps; todo > 0; --todo, offset += T * kTable) step(offset);
    const int then = segment->then;
    if ((then & (kToWords | kToWide)) != 0) widen(then);
    if ((then & kEnd) != 0) return;
    if ((then & kNextRun) != 0) offset = layout.run_offset(s, ++run);
  }
}

// Adds what the first V of `vectors` vectors of indices find in the tables of a step to `bytes`.
template <int T, int P, int V, class Lookup = Lookup>
[[gnu::always_inline]] inline void add_tables(const std::uint8_t* const* window,
                                              std::int64_t offset, const std::uint8_t*& index,
                                              int vectors, Ints (&bytes)[P][V]) {
  // Of look-ups and additions in turn, some additions would take the units that can look up (Zen 4:
  // 1.24 cycles for both, in groups of four 1.0).
  constexpr int kInTurn = kWholeTables ? 4 : V;
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) {
    Ints m[V], table = {};
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) m[v] = load(index + v * kVectorBytes);
    index += vectors * kVectorBytes;
#pragma GCC unroll 16
    for (int first = 0; first < P * V; first += kInTurn) {
      Ints some[kInTurn] = {};
#pragma GCC unroll 4
      for (int i = 0; i < kInTurn; ++i) {
        const int p = (first + i) / V, v = (first + i) % V;
        if (p >= P) continue;
        if (v == 0) table = Lookup::table(window[p] + offset + t * kTable);
        some[i] = Lookup::pick(table, m[v]);
      }
      if constexpr (kWholeTables) Lookup::all_first(some);
#pragma GCC unroll 4
      for (int i = 0; i < kInTurn; ++i) {
        const int p = (first + i) / V, v = (first + i) % V;
        if (p < P) bytes[p][v] = Lookup::add_bytes(bytes[p][v], some[i]);
      }
    }
  }
}

// Calls take(p, v, bytes) with the byte sums of a step.
template <int T, int P, int V, class Take>
[[gnu::always_inline]] inline void sum_tables(const std::uint8_t* const* window,
                                              std::int64_t offset, const std::uint8_t*& index,
                                              int vectors, const Take& take) {
  if constexpr (!kWholeTables) {
    // Tables of 16 bytes, one after the other for all pixels.
    Ints bytes[P][V];
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      Ints m[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) m[v] = load(index + v * kVectorBytes);
      index += vectors * kVectorBytes;
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        const Ints table = Lookup::table(window[p] + offset + t * kTable);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const Ints some = Lookup::pick(table, m[v]);
          bytes[p][v] = t == 0 ? some : Lookup::add_bytes(bytes[p][v], some);
        }
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) take(p, v, bytes[p][v]);
    }
  } else if constexpr (T * V > 8) {
    // More indices than there are registers for: those of one vector at a time, tables stay.
    Ints table[P][T];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) table[p][t] = load(window[p] + offset + t * kTable);
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      Ints m[T];
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) m[t] = load(index + (t * vectors + v) * kVectorBytes);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        Ints bytes = Lookup::pick(table[p][0], m[0]);
#pragma GCC unroll 4
        for (int t = 1; t < T; ++t) {
          bytes = Lookup::add_bytes(bytes, Lookup::pick(table[p][t], m[t]));
        }
        take(p, v, bytes);
      }
    }
    index += T * vectors * kVectorBytes;
  } else {
    // Indices stay, tables of one pixel at a time.
    Ints m[T][V];
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) m[t][v] = load(index + (t * vectors + v) * kVectorBytes);
    }
    index += T * vectors * kVectorBytes;
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      Ints bytes[V];
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        const Ints table = Lookup::table(window[p] + offset + t * kTable);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const Ints some = Lookup::pick(table, m[t][v]);
          bytes[v] = t == 0 ? some : Lookup::add_bytes(bytes[v], some);
        }
      }
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) take(p, v, bytes[v]);
    }
  }
}

// Full 16-bit sums of a vector to 32-bit ones, where `any` were there before.
inline void add_wide(Ints words, std::int32_t* to, bool any) {
  Ints first = Lookup::first_words(words), last = Lookup::last_words(words);
  if (any) first = add(first, load(to)), last = add(last, load(to + kLanes));
  store(to, first);
  store(to + kLanes, last);
}

// 32-bit sums of a tile.
template <int P>
struct WideSums {
  alignas(64) std::int32_t sums[P * kBlock];
  bool any = false;
};

// What becomes of the 16-bit sums of vector v of a pixel: they are accumulators but for the offset
// (narrow), or a part of these.
template <bool kNarrow>
[[gnu::always_inline]] inline void finish_words(Ints words, int v, const std::int32_t* wide,
                                                std::int32_t window_sum, const Part& part,
                                                std::int32_t* acc) {
  std::int32_t* to = acc + v * 2 * kLanes;
  if constexpr (kNarrow) {
    const Ints offset = load(reinterpret_cast<const std::uint8_t*>(part.offset) + v * kVectorBytes);
    const Ints all = Lookup::add16(words, Lookup::multiply16(offset, Lookup::spread16(window_sum)));
    store(to, Lookup::first_signed(all));
    store(to + kLanes, Lookup::last_signed(all));
  } else {
    const Ints halves[2] = {Lookup::first_words(words), Lookup::last_words(words)};
    for (int half = 0; half < 2; ++half, to += kLanes) {
      const int c = v * 2 * kLanes + half * kLanes;
      Ints all = halves[half];
      if (wide != nullptr) all = add(all, load(wide + c));
      if (part.sum.doubled != 0) all = add(all, all);
      const Ints before = part.offset == nullptr
                              ? load(to)
                              : Lookup::multiply32(load(part.offset + c), broadcast(window_sum));
      store(to, add(before, all));
    }
  }
}

// The same of words in memory, V vectors of each of P pixels: loops, for tiles whose code would be
// long.
[[gnu::noinline]] inline void widen_words(const std::uint8_t* words, int P, int V,
                                          std::int32_t* wide, bool any) {
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < V; ++v, words += kVectorBytes) {
      add_wide(load(words), wide + p * kBlock + v * 2 * kLanes, any);
    }
  }
}

[[gnu::noinline]] inline void finish_all_words(const std::uint8_t* words, int P, int V,
                                               const std::int32_t* wide,
                                               const std::int32_t* window_sum, const Part& part,
                                               std::int32_t* acc) {
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < V; ++v, words += kVectorBytes) {
      finish_words<false>(load(words), v, wide == nullptr ? nullptr : wide + p * kBlock,
                          window_sum[p], part, acc + p * kBlock);
    }
  }
}

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
  over_window<T>(
      s, layout, part.segments,
      [&](std::int64_t offset) [[gnu::always_inline]] {
        if constexpr (!kWholeTables) {
          for (int line = 0; line < kAheadBytes; line += 64) {
            __builtin_prefetch(index + ahead + line, 0, 2);
          }
        }
        asm("" : "+r"(factors));  // or their vectors would stay in registers that sums need
        sum_tables<T, P, V>(window, offset, index, kPairVectors, [&](int p, int v, Ints bytes) {
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
                            window_sum[p], part, acc + p * kBlock);
    }
  }
}

// The same where bytes hold the sums of several steps: there are registers for those of more
// pixels, and 16-bit sums, in memory, are added to once for these steps.
template <int P, int V, int T, bool kNarrow>
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
  over_window<T>(
      s, layout, part.segments,
      [&](std::int64_t offset) [[gnu::always_inline]] {
        for (int line = 0; line < kAheadBytes; line += 64) {
          __builtin_prefetch(index + ahead + line, 0, 2);
        }
        add_tables<T, P, V>(window, offset, index, kPairVectors, bytes);
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
      finish_words<true>(sum, v, nullptr, window_sum[p], part, acc + p * kBlock);
    });
  } else {
    to_words();
    finish_all_words(words, P, V, wide.any ? wide.sums : nullptr, window_sum, part, acc);
  }
}

// 16-bit sums of a plane to the accumulators of a pixel: vector v of `words`.
template <bool kNarrow>
[[gnu::always_inline]] inline void finish_plane(Ints words, int v, bool stored,
                                                std::int32_t window_sum, const Part& part,
                                                std::int32_t* acc) {
  if constexpr (kNarrow) {
    const Ints all = Lookup::multiply16(words, load(part.factors + v * kVectorBytes));
    finish_words<true>(all, v, nullptr, window_sum, part, acc);
  } else {
    const Ints halves[2] = {Lookup::first_words(words), Lookup::last_words(words)};
    for (int half = 0; half < 2; ++half) {
      const int c = v * 2 * kLanes + half * kLanes;
      const Ints before =
          stored ? load(acc + c) : Lookup::multiply32(load(part.offset + c), broadcast(window_sum));
      store(acc + c, add(before, Lookup::multiply32(halves[half], load(part.factors + 4 * c))));
    }
  }
}

// The same of words in memory, V vectors of each of P pixels.
[[gnu::noinline]] inline void add_planes(const std::uint8_t* words, int P, int V, bool stored,
                                         const std::int32_t* window_sum, const Part& part,
                                         std::int32_t* acc) {
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < V; ++v, words += kVectorBytes) {
      finish_plane<false>(load(words), v, stored, window_sum[p], part, acc + p * kBlock);
    }
  }
}

// A single plane. With kBytes, one holds several steps.
template <int P, int V, int T, bool kBytes, bool kNarrow>
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
            finish_plane<true>(words, at, true, window_sum[p], part, acc + p * kBlock);
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
  over_window<T>(
      s, layout, part.segments,
      [&](std::int64_t offset) [[gnu::always_inline]] {
        if constexpr (kBytes) {
          add_tables<T, P, V>(window, offset, index, kSingleVectors, bytes);
        } else {
          sum_tables<T, P, V>(window, offset, index, kSingleVectors, [&](int p, int v, Ints some) {
            sum[p][v] = Lookup::count(sum[p][v], some);
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

// Kinds of tiles.
enum class Tile { kPair, kPairBytes, kSingle, kSingleBytes };

// Not inlined: its loops need every register.
template <Tile kTile, int P, int V, int T, bool kNarrow>
[[gnu::noinline]] void add_tiles(const ConvShape& s, const Layout& layout, const Pixels& pixels,
                                 const Part& part, std::int32_t* acc) {
  for (int tile = 0; tile < pixels.tiles; ++tile) {
    const std::int64_t ahead = part.ahead != 0 && tile < 2 ? part.ahead + tile * kAheadBytes : 0;
    const std::uint8_t* const* window = pixels.window + tile * P;
    const std::int32_t* sum = pixels.sum + tile * P;
    std::int32_t* to = acc + tile * P * kBlock;
    if constexpr (kTile == Tile::kPair) {
      add_pair_tile<P, V, T, kNarrow>(s, layout, window, sum, part, ahead, to);
    } else if constexpr (kTile == Tile::kPairBytes) {
      add_byte_tile<P, V, T, kNarrow>(s, layout, window, sum, part, ahead, to);
    } else {
      add_single_tile<P, V, T, kTile == Tile::kSingleBytes, kNarrow>(s, layout, window, sum, part,
                                                                     to);
    }
  }
}

typedef void (*Add)(const ConvShape&, const Layout&, const Pixels&, const Part&, std::int32_t*);

// Tiles of `pixels` pixels, P at most.
template <Tile kTile, int P, int V, int T>
inline Add tiles_of(int pixels, bool narrow) {
  if constexpr (P > 1) {
    if (pixels < P) return tiles_of<kTile, P - 1, V, T>(pixels, narrow);
  }
  return narrow ? add_tiles<kTile, P, V, T, true> : add_tiles<kTile, P, V, T, false>;
}

// The tiles of a block, and how many pixels one has at most.
struct Tiles {
  Add (*add)(int pixels, bool narrow);
  int most;
};

template <Tile kTile, int P, int V, int T>
constexpr Tiles kTilesOf = {tiles_of<kTile, P, V, T>, P};

// Of steps of T tables: of a pair of planes or one, of a block of which no more than the first half
// exists, or more.
template <int T>
inline Tiles pair_tiles(bool half) {
  return half ? kTilesOf<Tile::kPair, kHalfPairPixels, kHalfPair, T>
              : kTilesOf<Tile::kPair, kPairPixels, kPairVectors, T>;
}
template <Tile kTile, int T>
inline Tiles single_tiles(bool half) {
  return half ? kTilesOf<kTile, kHalfSinglePixels, kHalfSingle, T>
              : kTilesOf<kTile, kSinglePixels, kSingleVectors, T>;
}

template <class Lookup = Lookup>
inline Tiles tiles_for(const Steps& steps, bool pair, bool half) {
  const bool bytes = steps.together > 1;
  if constexpr (Lookup::kChannels == 6) {
    if (bytes && pair) {
      return half ? kTilesOf<Tile::kPairBytes, Lookup::kHalfBytePixels, kHalfPair, 1>
                  : kTilesOf<Tile::kPairBytes, Lookup::kBytePixels, kPairVectors, 1>;
    }
    if (bytes) return single_tiles<Tile::kSingleBytes, 1>(half);
    if (steps.tables == 2) return pair ? pair_tiles<2>(half) : single_tiles<Tile::kSingle, 2>(half);
    return pair ? pair_tiles<3>(half) : single_tiles<Tile::kSingle, 3>(half);
  } else {
    constexpr int kTables = Lookup::kTables;
    if (!pair) {
      return bytes ? single_tiles<Tile::kSingleBytes, kTables>(half)
                   : single_tiles<Tile::kSingle, kTables>(half);
    }
    if constexpr (Lookup::kBytePixels > 0) {
      if (bytes && !half) {
        return kTilesOf<Tile::kPairBytes, Lookup::kBytePixels, kPairVectors, kTables>;
      }
    }
    return pair_tiles<kTables>(half);
  }
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
