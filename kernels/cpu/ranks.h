// Levels by how many of 15 ascending thresholds are passed, by bisection: 4 comparisons and 11
// choices in place of 15 comparisons and 15 additions. See conv.h's Ranks.
#pragma once

#include "conv.h"
#include "packed_words.h"
#include "simd.h"

#if defined(RSQUANT_WORD_LEVELS)

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

#if defined(RSQUANT_WIDE_BYTES)
inline Ints repeated(const std::uint8_t* bytes) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}
inline Ints look_up(Ints values, Ints index) { return _mm512_shuffle_epi8(values, index); }
inline Ints add_bytes(Ints a, Ints b) { return _mm512_add_epi8(a, b); }
#else
inline Ints repeated(const std::uint8_t* bytes) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}
inline Ints look_up(Ints values, Ints index) { return _mm256_shuffle_epi8(values, index); }
inline Ints add_bytes(Ints a, Ints b) { return _mm256_add_epi8(a, b); }
#endif

// How many thresholds numbers exceed. at(k): threshold k.
template <class Of, class At>
[[gnu::always_inline]] inline Ints passed_of_15(Ints number, const At& at) {
  const auto a = Of::greater(number, at(7));
  const auto b = Of::greater(number, Of::choose(a, at(3), at(11)));
  const auto two = [&](int k)
                       __attribute__((always_inline)) { return Of::choose(b, at(k), at(k + 4)); };
  const auto c = Of::greater(number, Of::choose(a, two(1), two(9)));
  const auto four = [&](int k) __attribute__((always_inline)) {
    return Of::choose(b, Of::choose(c, at(k), at(k + 2)), Of::choose(c, at(k + 4), at(k + 6)));
  };
  const auto d = Of::greater(number, Of::choose(a, four(0), four(8)));
  Ints passed = {};
  passed = Of::add_where(passed, a, Of::spread(8));
  passed = Of::add_where(passed, b, Of::spread(4));
  passed = Of::add_where(passed, c, Of::spread(2));
  return Of::add_where(passed, d, Of::spread(1));
}

// What Ranks has of some channels, a byte each.
struct RankBytes {
  Ints turned, first, lowest, values;

  Ints levels(Ints passed) const {
    return add_bytes(lowest, look_up(values, add_bytes(passed ^ turned, first)));
  }
};

// load(from): the bytes of a table from an address on.
template <class Load>
inline RankBytes rank_bytes(const Ranks& of, int channel, const Load& load) {
  const auto bytes = [&](int number) { return load(of.tables + number * of.padded + channel); };
  return {bytes(0), bytes(1), bytes(2), repeated(of.values)};
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
