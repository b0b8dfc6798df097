// The sums of a convolution by tables: from 16 bits to accumulators. See lookup.cpp.
#pragma once

#include "lookup_layout.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// What is added to the accumulators of a block: a pair of planes, or one, of some runs.
struct Part {
  const std::uint8_t* factors;
  const std::uint8_t* index;
  std::size_t run_bytes;  // of these
  const Segment* segments;
  int runs;
  Range first, last;  // taps of each row that the first and the last pixel of a tile have
  Sum sum;
  // Of the first part, which stores instead of adding; else null. Of narrow sums, 16 bits each.
  const std::int32_t* offset;
  std::int64_t ahead;  // bytes from indices to those of the next block; 0: there is none
};

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

// From pixel to pixel of the accumulators of a block: narrow ones have 16 bits.
template <bool kNarrow>
constexpr int kPixelStride = kNarrow ? kBlock / 2 : kBlock;

// Narrow accumulators of some pixels to 32 bits, in place.
inline void widen_narrow(std::int32_t* acc, int pixels) {
  for (int p = pixels - 1; p >= 0; --p) {
    const std::int32_t* from = acc + p * kPixelStride<true>;
    std::int32_t* to = acc + p * kBlock;
    for (int v = kBlock / (2 * kLanes) - 1; v >= 0; --v) {
      const Ints words = load(from + v * kLanes);
      store(to + v * 2 * kLanes, Lookup::first_signed(words));
      store(to + v * 2 * kLanes + kLanes, Lookup::last_signed(words));
    }
  }
}

// What becomes of the 16-bit sums of vector v of a pixel: they are accumulators but for the offset
// (narrow), or a part of these.
template <bool kNarrow>
[[gnu::always_inline]] inline void finish_words(Ints words, int v, const std::int32_t* wide,
                                                std::int32_t window_sum, const Part& part,
                                                std::int32_t* acc) {
  if constexpr (kNarrow) {
    const Ints offset = load(reinterpret_cast<const std::uint8_t*>(part.offset) + v * kVectorBytes);
    const Ints all = Lookup::add16(words, Lookup::multiply16(offset, Lookup::spread16(window_sum)));
    store(acc + v * kLanes, all);
  } else {
    std::int32_t* to = acc + v * 2 * kLanes;
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

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
