// The loop of a convolution by tables over a window, and its look-ups. See lookup.cpp.
#pragma once

#include "lookup_sums.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Tables of six channels, of which a step has any number.
constexpr bool kWholeTables = kChannels == 6;

// Which of a tile's pixels a step leaves out; with kEnds false, none.
template <bool kEnds>
struct Without {
  bool first, last;

  template <int P>
  bool has(int p) const {
    return kEnds && ((p == 0 && first) || (p == P - 1 && last));
  }
};

// Calls step(offset from each pixel's window, pixels left out) for each step of T tables, and
// widen(where to) where the sums behind them are to be widened.
template <int T, bool kEnds, class Step, class Widen>
[[gnu::always_inline]] inline void over_window(const ConvShape& s, const Layout& layout,
                                               const Part& part, const Step& step,
                                               const Widen& widen) {
  const auto without = [&](int tap) {
    return Without<kEnds>{tap < part.first.first || tap >= part.first.last,
                          tap < part.last.first || tap >= part.last.last};
  };
  int run = 0, tap = 0;
  Without<kEnds> some = without(tap);
  std::int64_t offset = 0;
  for (const Segment* segment = part.segments;; ++segment) {
    for (int todo = segment->steps; todo > 0; --todo, offset += T * kTable) step(offset, some);
    const int then = segment->then;
    if ((then & (kToWords | kToWide)) != 0) widen(then);
    if (kEnds && (then & kEndOfTap) != 0) some = without(tap = tap + 1 < s.kernel_w ? tap + 1 : 0);
    if ((then & kEndOfRun) == 0) continue;
    if (++run == part.runs) return;
    offset = layout.run_offset(s, run);
  }
}

// Adds what V vectors of indices find in the tables of a step to `bytes`.
template <int T, int P, int V, bool kEnds, class Lookup = Lookup>
[[gnu::always_inline]] inline void add_tables(const std::uint8_t* const* window,
                                              std::int64_t offset, const std::uint8_t*& index,
                                              Without<kEnds> without, Ints (&bytes)[P][V]) {
  // Of look-ups and additions in turn, some additions would take the units that can look up (Zen 4:
  // 1.24 cycles for both, in groups of four 1.0).
  constexpr int kInTurn = kWholeTables ? 4 : V;
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) {
    Ints m[V], table = {};
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) m[v] = load(index + v * kVectorBytes);
    index += V * kVectorBytes;
#pragma GCC unroll 16
    for (int first = 0; first < P * V; first += kInTurn) {
      Ints some[kInTurn] = {};
#pragma GCC unroll 4
      for (int i = 0; i < kInTurn; ++i) {
        const int p = (first + i) / V, v = (first + i) % V;
        if (p >= P || without.template has<P>(p)) continue;
        if (v == 0) table = Lookup::table(window[p] + offset + t * kTable);
        some[i] = Lookup::pick(table, m[v]);
      }
      if constexpr (kWholeTables) Lookup::all_first(some);
#pragma GCC unroll 4
      for (int i = 0; i < kInTurn; ++i) {
        const int p = (first + i) / V, v = (first + i) % V;
        if (p >= P || without.template has<P>(p)) continue;
        bytes[p][v] = Lookup::add_bytes(bytes[p][v], some[i]);
      }
    }
  }
}

// Calls take(p, v, bytes) with the byte sums of a step.
template <int T, int P, int V, class Take>
[[gnu::always_inline]] inline void sum_tables(const std::uint8_t* const* window,
                                              std::int64_t offset, const std::uint8_t*& index,
                                              const Take& take) {
  if constexpr (!kWholeTables) {
    // Tables of 16 bytes, one after the other for all pixels.
    Ints bytes[P][V];
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      Ints m[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) m[v] = load(index + v * kVectorBytes);
      index += V * kVectorBytes;
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
      for (int t = 0; t < T; ++t) m[t] = load(index + (t * V + v) * kVectorBytes);
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
    index += T * V * kVectorBytes;
  } else {
    // Indices stay, tables of one pixel at a time.
    Ints m[T][V];
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) m[t][v] = load(index + (t * V + v) * kVectorBytes);
    }
    index += T * V * kVectorBytes;
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

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
