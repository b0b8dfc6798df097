// byte_epilogue.h of as many bytes as a register holds: of 64 channels with 512 bits, or of 32 or
// 16 channels of two or four pixels, of the last of which some need not exist; of 32 channels with
// 256 bits.
//
// Four vectors of 32-bit numbers become two of 16 bits and one of bytes: packed_words.h. Codes
// by multipliers of 16 bits (byte_words.h) are packed to signed bytes, each a byte - 128, to which
// the byte of `add`, less 128 as well, is added: what leaves the range is limited to it.
#pragma once

#include "byte_epilogue.h"
#include "ending_sums.h"
#include "packed_words.h"
#include "ranks.h"
#include "register_bytes.h"

#if defined(RSQUANT_WORD_LEVELS)

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Codes of 16 bits, beyond those of a byte where they are limited to these.
template <Rounding kRounding, class Sums>
struct PackedCodes {
  typename Sums::Terms bias;
  Floats factor[Sums::kVectors];
  Floats bottom, top;

  PackedCodes(const ByteEpilogue& e, int first)
      : bias(Sums::terms(e.bias + first)),
        bottom(broadcast(static_cast<float>(e.low))),
        top(broadcast(static_cast<float>(e.high))) {
    for (int i = 0; i < Sums::kVectors; ++i) factor[i] = load(e.factor + first + i * kLanes);
  }
  [[gnu::always_inline]] void make(const Sums& sums, int some, Ints (&code)[2]) const {
    Ints whole[4];
    for (int v = 0; v < 4; ++v) {
      Floats y = multiply(to_float(sums.sum(bias, 0, some, v)), factor[v % Sums::kVectors]);
      if constexpr (kRounding == Rounding::kLimited) y = smallest(largest(y, bottom), top);
      whole[v] = round(y);
    }
    for (int i = 0; i < 2; ++i) code[i] = pack_words(whole[2 * i], whole[2 * i + 1]);
  }
};

template <class Sums>
struct PackedCodes<Rounding::kWords, Sums> {
  typename Sums::Terms bias;
  Ints factor[2];

  PackedCodes(const ByteEpilogue& e, int first) : bias(Sums::terms(e.bias + first)) {
    for (int i = 0; i < 2; ++i) factor[i] = Sums::table(e.words + first, i);
  }
  [[gnu::always_inline]] void make(const Sums& sums, int some, Ints (&code)[2]) const {
    sums.words(bias, 0, some, code);
    for (int i = 0; i < 2; ++i) code[i] = Words16::multiply(code[i], factor[i]);
  }
};

// The channels of Sums (ending_sums.h) of `count` pixels, `exist` of which are written; otherwise
// as `finish_byte_group`.
template <int T, Rounding kRounding, class Sums>
[[gnu::noinline]] void finish_packed_group(const ByteEpilogue& e, Sums sums, int count, int first,
                                           int exist, const BytePlaces& places) {
  typedef RegisterBytes<Sums::kChannels> Bytes;
  constexpr int kTables = T > 0 ? T : 1;
  Ints threshold[kTables], step[kTables], base = {};
  for (int k = 0; k < T; ++k) {
    threshold[k] = Bytes::table(e.threshold[k] + first);
    step[k] = Bytes::table(e.step[k] + first);
  }
  if constexpr (T > 0) base = Bytes::table(e.base + first);
  const bool ranked = e.ranks.tables != nullptr;
  RankBytes ranks = {};
  if (T == kMaxThresholds && ranked) ranks = rank_bytes(e.ranks, first, Bytes::table);
  const PackedCodes<kRounding, Sums> codes(e, first);
  const Ints low = Words16::spread(e.low), high = Words16::spread(e.high);
  const Ints offset = Words16::spread(e.offset);
  const Ints least = Words16::spread(e.least), most = Words16::spread(e.most);
  const Ints signed_least = Bytes8::spread(e.least - 128),
             signed_most = Bytes8::spread(e.most - 128);
  const bool limited = e.least > 0 || e.most < 255;
  const Ints flip = Bytes8::spread(-128);
  const typename Bytes::Mask mask = Bytes::mask(exist);
  // Stores of bytes may change anything, so what the loop needs is copied.
  const std::uint8_t* added = places.add;
  std::uint8_t* kept = places.keep;
  std::uint8_t* coded = places.codes;
  const std::int64_t add_pixel = places.add_pixel, keep_pixel = places.keep_pixel;
  const std::int64_t codes_pixel = places.codes_pixel;

  const auto with_added = [&](Ints(&code)[2], int some) __attribute__((always_inline)) {
    Ints some_added = {};
    if (added != nullptr) {
      some_added = Bytes::load(added, add_pixel, some, mask);
      added += some * add_pixel;
    }
    if constexpr (kRounding == Rounding::kWords) {
      Ints byte = Sums::ordered(pack_signed_bytes(code[0], code[1]));
      if (added != nullptr) byte = Bytes8::add(byte, flip ^ some_added);
      if (limited) byte = Bytes8::smallest(Bytes8::largest(byte, signed_least), signed_most);
      return byte;
    } else {
      if (added != nullptr) {
        const Ints bytes = from_memory_order(some_added);
        const Ints wide[2] = {first_as_words(bytes), last_as_words(bytes)};
        for (int i = 0; i < 2; ++i) {
          const Ints branch = Words16::smallest(Words16::largest(code[i], low), high);
          code[i] = Words16::add(branch, wide[i]);
        }
      }
      for (int i = 0; i < 2; ++i) {
        code[i] = Words16::add(code[i], offset);
        if (limited) code[i] = Words16::smallest(Words16::largest(code[i], least), most);
      }
      return to_memory_order(pack_bytes(code[0], code[1]));
    }
  };

  const auto finish_pixels = [&](int some) __attribute__((always_inline)) {
    Ints code[2];
    codes.make(sums, some, code);
    sums.skip(some);
    const Ints found = with_added(code, some);
    const Ints other = flip ^ found;
    constexpr bool kSigned = kRounding == Rounding::kWords;
    if (kept != nullptr) {
      Bytes::store(kept, keep_pixel, some, mask, kSigned ? other : found);
      kept += some * keep_pixel;
    }
    if constexpr (T > 0) {
      const Ints compared = kSigned ? found : other;
      Ints level = base;
      if (T == kMaxThresholds && ranked) {
        level = ranks.levels(passed_of_15<Bytes8>(compared, [&](int k) { return threshold[k]; }));
      } else {
        for (int k = 0; k < T; ++k) {
          level = Bytes8::add_where(level, Bytes8::greater(compared, threshold[k]), step[k]);
        }
      }
      Bytes::store(coded, codes_pixel, some, mask, level);
      coded += some * codes_pixel;
    }
  };
  for (; count >= Bytes::kPixels; count -= Bytes::kPixels) finish_pixels(Bytes::kPixels);
  if (count > 0) finish_pixels(count);
}

// Channels from `first` on, `exist` of them, of `count` pixels of row y from x on. With narrow sums
// alone where multipliers have 16 bits.
template <int kChannels>
inline void finish_packed_row(const ByteEpilogue& e, const Accumulators<kChannels>& sums, int count,
                              int y, int x, int first, int exist) {
  const BytePlaces places = places_of(e, y, x, first);
  as_compiled<true>(e, [&]<int T, Rounding kRounding>() {
    finish_packed_group<T, kRounding>(e, sums, count, first, exist, places);
  });
}
template <int kChannels>
inline void finish_packed_row(const ByteEpilogue& e, const NarrowSums<kChannels>& sums, int count,
                              int y, int x, int first, int exist) {
  const BytePlaces places = places_of(e, y, x, first);
  const auto as = [&]<int T>() __attribute__((always_inline)) {
    finish_packed_group<T, Rounding::kWords>(e, sums, count, first, exist, places);
  };
  if (e.thresholds == 0) return as.template operator()<0>();
  as_compiled(e.thresholds, as);
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
