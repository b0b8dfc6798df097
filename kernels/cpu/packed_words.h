// Numbers of 32 bits packed to 16 and to 8: within 16-byte parts of a register, so that bytes of
// four vectors are in groups of four, groups j of the vectors following each other. One
// permutation, its own inverse, changes between this order and that of memory.
#pragma once

#include "epilogue.h"
#include "simd.h"

#if defined(RSQUANT_WORD_LEVELS)

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

#if defined(RSQUANT_WIDE_BYTES)
inline __m512i wide_order() {
  return _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
}
inline Ints pack_words(Ints a, Ints b) { return _mm512_packs_epi32(a, b); }
inline Ints pack_bytes(Ints a, Ints b) {
  return _mm512_permutexvar_epi32(wide_order(), _mm512_packus_epi16(a, b));
}
inline Ints packed_order(Ints words) {
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), words);
}
inline Ints twice16(const std::int16_t* words) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)));
}
inline Ints add_greater16(Ints sum, Ints a, Ints b, Ints step) {
  return _mm512_mask_add_epi16(sum, _mm512_cmpgt_epi16_mask(a, b), sum, step);
}
typedef __mmask32 Greater;
inline Greater greater16(Ints a, Ints b) { return _mm512_cmpgt_epi16_mask(a, b); }
inline Ints choose(Greater which, Ints no, Ints yes) {
  return _mm512_mask_blend_epi16(which, no, yes);
}
inline Ints add_where(Ints sum, Greater which, int number) {
  const Ints some = _mm512_set1_epi16(static_cast<std::int16_t>(number));
  return _mm512_mask_add_epi16(sum, which, sum, some);
}
inline Ints four_times(const std::uint8_t* bytes) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}
inline Ints look_up(Ints values, Ints index) { return _mm512_shuffle_epi8(values, index); }
inline Ints add_bytes(Ints a, Ints b) { return _mm512_add_epi8(a, b); }
#else
inline Ints pack_words(Ints a, Ints b) { return _mm256_packs_epi32(a, b); }
inline Ints pack_bytes(Ints a, Ints b) {
  const Ints order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order);
}
inline Ints packed_order(Ints words) { return _mm256_permute4x64_epi64(words, 0xD8); }
inline Ints add_greater16(Ints sum, Ints a, Ints b, Ints step) {
  return _mm256_add_epi16(sum, _mm256_and_si256(_mm256_cmpgt_epi16(a, b), step));
}
typedef Ints Greater;
inline Greater greater16(Ints a, Ints b) { return _mm256_cmpgt_epi16(a, b); }
inline Ints choose(Greater which, Ints no, Ints yes) { return _mm256_blendv_epi8(no, yes, which); }
inline Ints add_where(Ints sum, Greater which, int number) {
  const Ints some = _mm256_set1_epi16(static_cast<std::int16_t>(number));
  return _mm256_add_epi16(sum, _mm256_and_si256(which, some));
}
inline Ints four_times(const std::uint8_t* bytes) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}
inline Ints look_up(Ints values, Ints index) { return _mm256_shuffle_epi8(values, index); }
inline Ints add_bytes(Ints a, Ints b) { return _mm256_add_epi8(a, b); }
#endif

// How many of 15 ascending thresholds words exceed, by bisection: 4 comparisons and 11 choices in
// place of 15 comparisons and 15 additions. at(k): threshold k.
template <class At>
[[gnu::always_inline]] inline Ints passed_of_15(Ints word, const At& at) {
  const Greater a = greater16(word, at(7));
  const Greater b = greater16(word, choose(a, at(3), at(11)));
  const Greater c = greater16(word, choose(a, choose(b, at(1), at(5)), choose(b, at(9), at(13))));
  const Ints low = choose(b, choose(c, at(0), at(2)), choose(c, at(4), at(6)));
  const Ints high = choose(b, choose(c, at(8), at(10)), choose(c, at(12), at(14)));
  const Greater d = greater16(word, choose(a, low, high));
  return add_where(add_where(add_where(add_where(Ints{}, a, 8), b, 4), c, 2), d, 1);
}

// Bytes of levels from how many thresholds were passed: see conv.h's WordLevels.
struct Ranks {
  Ints turned, first, lowest, values;

  Ints levels(Ints passed) const {
    return add_bytes(lowest, look_up(values, add_bytes(passed ^ turned, first)));
  }
};

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
