// Where the end of a convolution takes its sums from: as words, for as many bytes as a register
// has. Of accumulators of 32 bits, or of 16 as tables make them.
#pragma once

#include "packed_words.h"
#include "simd.h"

#if defined(RSQUANT_WORD_LEVELS)

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Of kChannels channels of one pixel, or of two or four. What both kinds have:
//
//   terms(numbers)           int32 per channel that are added to the sums, once for many pixels
//   words(terms, pixel, some, word)    the sums of pixels from `pixel` on, limited to 16 bits; of
//                            pixels from `some` on, which do not exist, those of the first one
//   table(numbers, i)        int16 per channel in the order of word[i]
//   ordered(bytes)           two words that were packed to bytes, in the order of memory
//   skip(pixels)
template <int kOfPixel>
struct Accumulators {
  static constexpr int kChannels = kOfPixel;
  static constexpr int kPixels = static_cast<int>(sizeof(Ints)) / kChannels;
  static constexpr int kTables = kPixels == 1 ? 2 : 1;  // different ones of the two words
  static constexpr int kVectors = 4 / kPixels;          // of a pixel
  struct Terms {
    Ints of[kVectors];
  };

  const std::int32_t* at;
  int stride;           // accumulators from pixel to pixel
  std::int64_t second;  // of four vectors: where the last two are, from the first on

  static Terms terms(const std::int32_t* numbers) {
    Terms all;
    for (int v = 0; v < kVectors; ++v) all.of[v] = load(numbers + v * kLanes);
    return all;
  }
  // Vector v of four with its term, 32 bits.
  [[gnu::always_inline]] Ints sum(const Terms& terms, int pixel, int some, int v) const {
    const int p = pixel + v / kVectors, vector = v % kVectors;
    const std::int32_t* from = at + (p < some ? p : 0) * stride;
    from += vector < 2 ? vector * kLanes : second + (vector - 2) * kLanes;
    return add(terms.of[vector], load(from));
  }
  [[gnu::always_inline]] void words(const Terms& terms, int pixel, int some,
                                    Ints (&word)[2]) const {
    Ints all[4];
    for (int v = 0; v < 4; ++v) all[v] = sum(terms, pixel, some, v);
    for (int i = 0; i < 2; ++i) word[i] = pack_words(all[2 * i], all[2 * i + 1]);
  }
  static Ints table(const std::int16_t* numbers, int i) {
    return packed_table<kPixels>(numbers, i);
  }
  static Ints ordered(Ints bytes) { return to_memory_order(bytes); }
  void skip(int pixels) { at += pixels * stride; }
};

// Sums of 16 bits, 2 kLanes channels of a vector in the order of `Lookup::word_place`: those of the
// first half at even places, the others at odd ones. Of one pixel or two.
template <int kOfPixel>
struct NarrowSums {
  static constexpr int kChannels = kOfPixel;
  static constexpr int kPixels = static_cast<int>(sizeof(Ints)) / kChannels;
  static constexpr int kTables = kPixels == 1 ? 2 : 1;
  static constexpr int kVectors = 2 / kPixels;
  static_assert(kVectors >= 1);
  struct Terms {
    Ints of[kVectors];
  };

  const std::int16_t* at;
  int stride;

  // Of numbers that fit 16 bits.
  static Terms terms(const std::int32_t* numbers) {
    Terms all;
    for (int v = 0; v < kVectors; ++v) {
      const std::int32_t* from = numbers + v * 2 * kLanes;
      all.of[v] = pair_words(load(from), load(from + kLanes));
    }
    return all;
  }
  [[gnu::always_inline]] void words(const Terms& terms, int pixel, int some,
                                    Ints (&word)[2]) const {
    for (int i = 0; i < 2; ++i) {
      const int p = pixel + i / kVectors, vector = i % kVectors;
      const std::int16_t* from = at + (p < some ? p : 0) * stride;
      word[i] = Words16::add(terms.of[vector], load(from + vector * 2 * kLanes));
    }
  }
  static Ints table(const std::int16_t* numbers, int i) {
    return interleave_halves(load(numbers + (kPixels == 1 ? i * 2 * kLanes : 0)));
  }
  static Ints ordered(Ints bytes) { return to_memory_order(fours_together(bytes)); }
  void skip(int pixels) { at += pixels * stride; }
};

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
