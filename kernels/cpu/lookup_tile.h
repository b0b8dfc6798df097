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
constexpr int kHalfPairPixels = kTables == 2 ? 7 : 2 * kPairPixels;
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
  // Of the first part, which stores instead of adding; else null. Of narrow sums, 16 bits each.
  const std::int32_t* offset;
  std::int64_t ahead;  // bytes from indices to those of the next block; 0: there is none
};

// Indices are read once for each tile of pixels, and a layer's do not fit the second-level cache:
// the first two tiles ask for those of the next block, half of them each, 128 of the 256 bytes of a
// step. Small maps have few tiles, and would wait for memory.
constexpr int kAheadBytes = 128;
// In tiles of byte sums: with tables of 64 bytes a step has 512. Other tiles lose by as many.
constexpr int kAheadOfBytes = kTables == 2 ? 256 : kAheadBytes;

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

// 32-bit sums that full 16-bit ones of a tile were added to, if any was.
template <int P>
struct WideSums {
  alignas(64) std::int32_t sums[P * kBlock];
  bool any = false;

  // Those of vector v of pixel p.
  void add_words(int p, int v, Ints words) {
    std::int32_t* to = sums + p * kBlock + v * 2 * kLanes;
    Ints first = Lookup::first_words(words), last = Lookup::last_words(words);
    if (any) first = add(first, load(to)), last = add(last, load(to + kLanes));
    store(to, first);
    store(to + kLanes, last);
  }
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

// Adds a pair of planes to the accumulators of P pixels and the first V vectors of output channels
// of a block.
template <int P, int V, bool kNarrow>
[[gnu::always_inline]] inline void add_pair_tile(const ConvShape& s, const Layout& layout,
                                                 const std::uint8_t* const* window,
                                                 const std::int32_t* window_sum, const Part& part,
                                                 std::int64_t ahead, std::int32_t* acc) {
  Ints sum[P][V];
  WideSums<P> wide;
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
      s, layout, window, kNarrow ? layout.tables() : part.sum.steps,
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
        if constexpr (!kNarrow) {
#pragma GCC unroll 16
          for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) wide.add_words(p, v, sum[p][v]);
          }
          wide.any = true;
          clear();
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

// The same where bytes hold the sums of several steps: there are registers for those of twice as
// many pixels, and 16-bit sums, in memory, are added to once for these steps.
template <int P, int V, bool kNarrow>
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
  const auto clear = [&] {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) bytes[p][v] = Ints{};
    }
  };
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
  clear();
  int left = part.sum.groups;
  const std::uint8_t* index = part.index;
  over_window<P>(
      s, layout, window, part.sum.together,
      [&](const std::uint8_t* const(&at)[P], std::int64_t offset) [[gnu::always_inline]] {
        for (int line = 0; line < kAheadOfBytes; line += 64) {
          __builtin_prefetch(index + ahead + line, 0, 2);
        }
        look_up<P, V, false>(at, offset, index, kPairVectors, bytes);
      },
      [&] {
        if (kNarrow || --left > 0) {
          with_words(
              [&](int p, int v, Ints sum) { store(words + (p * V + v) * kVectorBytes, sum); });
          begun = true;
        } else {
          with_words([&](int p, int v, Ints sum) { wide.add_words(p, v, sum); });
          wide.any = true;
          begun = false;
          left = part.sum.groups;
        }
        clear();
      });
  with_words([&](int p, int v, Ints sum) [[gnu::always_inline]] {
    finish_words<kNarrow>(sum, v, wide.any ? wide.sums + p * kBlock : nullptr, window_sum[p], part,
                          acc + p * kBlock);
  });
}

// The same of a single plane.
template <int P, int V, bool kNarrow>
[[gnu::always_inline]] inline void add_single_tile(const ConvShape& s, const Layout& layout,
                                                   const std::uint8_t* const* window,
                                                   const std::int32_t* window_sum, const Part& part,
                                                   std::int32_t* acc) {
  Ints bytes[P][V];
  Lookup::Single sum[P][V];
  bool stored = part.offset == nullptr;  // something is in the accumulators
  // Calls with pixel, vector of bytes, and number and sums of each vector of 16-bit sums.
  const auto with_words = [&](const auto& take) [[gnu::always_inline]] {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        take(p, 2 * v, Lookup::first_of(sum[p][v]));
        take(p, 2 * v + 1, Lookup::last_of(sum[p][v]));
        sum[p][v] = Lookup::Single{};
      }
    }
  };
  const auto to_accumulators = [&] {
    with_words([&](int p, int v, Ints words) {
      const Ints halves[2] = {Lookup::first_words(words), Lookup::last_words(words)};
      for (int half = 0; half < 2; ++half) {
        const int c = v * 2 * kLanes + half * kLanes;
        std::int32_t* to = acc + p * kBlock + c;
        const Ints before =
            stored ? load(to) : Lookup::multiply32(load(part.offset + c), broadcast(window_sum[p]));
        store(to, add(before, Lookup::multiply32(halves[half], load(part.factors + 4 * c))));
      }
    });
    stored = true;
  };
  const auto to_words = [&] {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        sum[p][v] = Lookup::count(sum[p][v], bytes[p][v]);
        bytes[p][v] = Ints{};
      }
    }
  };
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) bytes[p][v] = Ints{}, sum[p][v] = Lookup::Single{};
  }
  int left = part.sum.groups;
  const std::uint8_t* index = part.index;
  over_window<P>(
      s, layout, window, part.sum.together,
      [&](const std::uint8_t* const(&at)[P], std::int64_t offset) [[gnu::always_inline]] {
        look_up<P, V, false>(at, offset, index, kSingleVectors, bytes);
      },
      [&] {
        to_words();
        if (kNarrow || --left > 0) return;
        to_accumulators();
        left = part.sum.groups;
      });
  to_words();
  if constexpr (kNarrow) {
    with_words([&](int p, int v, Ints words) {
      const Ints all = Lookup::multiply16(words, load(part.factors + v * kVectorBytes));
      finish_words<true>(all, v, nullptr, window_sum[p], part, acc + p * kBlock);
    });
  } else {
    to_accumulators();
  }
}

// Not inlined: their loops need every register.
template <int P, int V, bool kBytes, bool kNarrow>
[[gnu::noinline]] void add_pair(const ConvShape& s, const Layout& layout, const Pixels& pixels,
                                const Part& part, std::int32_t* acc) {
  for (int tile = 0; tile < pixels.tiles; ++tile) {
    const int step = kBytes ? kAheadOfBytes : kAheadBytes;
    const std::int64_t ahead = part.ahead != 0 && tile < 2 ? part.ahead + tile * step : 0;
    const std::uint8_t* const* window = pixels.window + tile * P;
    const std::int32_t* sum = pixels.sum + tile * P;
    std::int32_t* to = acc + tile * P * kBlock;
    if constexpr (kBytes) {
      add_byte_tile<P, V, kNarrow>(s, layout, window, sum, part, ahead, to);
    } else {
      add_pair_tile<P, V, kNarrow>(s, layout, window, sum, part, ahead, to);
    }
  }
}

template <int P, int V, bool kNarrow>
[[gnu::noinline]] void add_single(const ConvShape& s, const Layout& layout, const Pixels& pixels,
                                  const Part& part, std::int32_t* acc) {
  for (int tile = 0; tile < pixels.tiles; ++tile) {
    add_single_tile<P, V, kNarrow>(s, layout, pixels.window + tile * P, pixels.sum + tile * P, part,
                                   acc + tile * P * kBlock);
  }
}

typedef void (*Add)(const ConvShape&, const Layout&, const Pixels&, const Part&, std::int32_t*);

template <int P, int V, bool kBytes, bool kNarrow>
inline Add pair_of(int count) {
  if constexpr (P > 1) {
    if (count < P) return pair_of<P - 1, V, kBytes, kNarrow>(count);
  }
  return add_pair<P, V, kBytes, kNarrow>;
}

template <int P, int V, bool kNarrow>
inline Add single_of(int count) {
  if constexpr (P > 1) {
    if (count < P) return single_of<P - 1, V, kNarrow>(count);
  }
  return add_single<P, V, kNarrow>;
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
