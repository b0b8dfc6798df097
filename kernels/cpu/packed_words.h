// Numbers of 32 bits packed to 16 and to 8: within 16-byte parts of a register, so that bytes of
// four vectors are in groups of four, groups j of the vectors following each other. One
// permutation changes this order to that of memory, and one back.
#pragma once

#include "conv.h"
#include "simd.h"

#if defined(RSQUANT_WORD_LEVELS)

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Numbers of 16 bits, and bytes with a sign. `add` keeps to the range of the type.
#if defined(RSQUANT_WIDE_BYTES)
struct Words16 {
  typedef __mmask32 Which;
  static Ints spread(int number) { return _mm512_set1_epi16(static_cast<std::int16_t>(number)); }
  static Ints add(Ints a, Ints b) { return _mm512_adds_epi16(a, b); }
  static Ints smallest(Ints a, Ints b) { return _mm512_min_epi16(a, b); }
  static Ints largest(Ints a, Ints b) { return _mm512_max_epi16(a, b); }
  // (a b + 2^14) >> 15
  static Ints multiply(Ints a, Ints b) { return _mm512_mulhrs_epi16(a, b); }
  static Which greater(Ints a, Ints b) { return _mm512_cmpgt_epi16_mask(a, b); }
  static Ints choose(Which of, Ints no, Ints yes) { return _mm512_mask_blend_epi16(of, no, yes); }
  static Ints add_where(Ints sum, Which of, Ints b) {
    return _mm512_mask_add_epi16(sum, of, sum, b);
  }
};
struct Bytes8 {
  typedef __mmask64 Which;
  static Ints spread(int number) { return _mm512_set1_epi8(static_cast<char>(number)); }
  static Ints add(Ints a, Ints b) { return _mm512_adds_epi8(a, b); }
  static Ints smallest(Ints a, Ints b) { return _mm512_min_epi8(a, b); }
  static Ints largest(Ints a, Ints b) { return _mm512_max_epi8(a, b); }
  static Which greater(Ints a, Ints b) { return _mm512_cmpgt_epi8_mask(a, b); }
  static Ints choose(Which of, Ints no, Ints yes) { return _mm512_mask_blend_epi8(of, no, yes); }
  static Ints add_where(Ints sum, Which of, Ints b) {
    return _mm512_mask_add_epi8(sum, of, sum, b);
  }
};
inline Ints pack_words(Ints a, Ints b) { return _mm512_packs_epi32(a, b); }
inline Ints to_memory_order(Ints bytes) {
  const Ints order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, bytes);
}
inline Ints from_memory_order(Ints bytes) { return to_memory_order(bytes); }  // its own inverse
inline Ints pack_bytes(Ints a, Ints b) { return _mm512_packus_epi16(a, b); }
inline Ints pack_signed_bytes(Ints a, Ints b) { return _mm512_packs_epi16(a, b); }
// Packed bytes as words, in the order of packed ones.
inline Ints first_as_words(Ints bytes) { return _mm512_unpacklo_epi8(bytes, Ints{}); }
inline Ints last_as_words(Ints bytes) { return _mm512_unpackhi_epi8(bytes, Ints{}); }
inline Ints packed_order(Ints words) {
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), words);
}
// Numbers of 32 bits that fit 16, those of `a` at even places and those of `b` at odd ones.
inline Ints pair_words(Ints a, Ints b) {
  return _mm512_or_si512(_mm512_and_si512(a, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(b, 16));
}
// Words of the first half at even places, those of the other at odd ones.
inline Ints interleave_halves(Ints words) {
  const Ints low = _mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3);
  const Ints high = _mm512_add_epi64(low, _mm512_set1_epi64(4));
  return _mm512_unpacklo_epi16(_mm512_permutexvar_epi64(low, words),
                               _mm512_permutexvar_epi64(high, words));
}
// Of each 8 bytes those at even places, then the others.
inline Ints fours_together(Ints bytes) {
  return _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                        0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15)));
}
inline Ints twice16(const std::int16_t* words) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)));
}
#else
struct Words16 {
  typedef Ints Which;
  static Ints spread(int number) { return _mm256_set1_epi16(static_cast<std::int16_t>(number)); }
  static Ints add(Ints a, Ints b) { return _mm256_adds_epi16(a, b); }
  static Ints smallest(Ints a, Ints b) { return _mm256_min_epi16(a, b); }
  static Ints largest(Ints a, Ints b) { return _mm256_max_epi16(a, b); }
  static Ints multiply(Ints a, Ints b) { return _mm256_mulhrs_epi16(a, b); }
  static Which greater(Ints a, Ints b) { return _mm256_cmpgt_epi16(a, b); }
  static Ints choose(Which of, Ints no, Ints yes) { return _mm256_blendv_epi8(no, yes, of); }
  static Ints add_where(Ints sum, Which of, Ints b) {
    return _mm256_add_epi16(sum, _mm256_and_si256(of, b));
  }
};
struct Bytes8 {
  typedef Ints Which;
  static Ints spread(int number) { return _mm256_set1_epi8(static_cast<char>(number)); }
  static Ints add(Ints a, Ints b) { return _mm256_adds_epi8(a, b); }
  static Ints smallest(Ints a, Ints b) { return _mm256_min_epi8(a, b); }
  static Ints largest(Ints a, Ints b) { return _mm256_max_epi8(a, b); }
  static Which greater(Ints a, Ints b) { return _mm256_cmpgt_epi8(a, b); }
  static Ints choose(Which of, Ints no, Ints yes) { return _mm256_blendv_epi8(no, yes, of); }
  static Ints add_where(Ints sum, Which of, Ints b) {
    return _mm256_add_epi8(sum, _mm256_and_si256(of, b));
  }
};
inline Ints pack_words(Ints a, Ints b) { return _mm256_packs_epi32(a, b); }
inline Ints to_memory_order(Ints bytes) {
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
inline Ints from_memory_order(Ints bytes) {
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
}
inline Ints pack_bytes(Ints a, Ints b) { return _mm256_packus_epi16(a, b); }
inline Ints pack_signed_bytes(Ints a, Ints b) { return _mm256_packs_epi16(a, b); }
inline Ints first_as_words(Ints bytes) { return _mm256_unpacklo_epi8(bytes, Ints{}); }
inline Ints last_as_words(Ints bytes) { return _mm256_unpackhi_epi8(bytes, Ints{}); }
inline Ints packed_order(Ints words) { return _mm256_permute4x64_epi64(words, 0xD8); }
inline Ints pair_words(Ints a, Ints b) {
  return _mm256_or_si256(_mm256_and_si256(a, _mm256_set1_epi32(0xffff)), _mm256_slli_epi32(b, 16));
}
inline Ints interleave_halves(Ints words) {
  return _mm256_unpacklo_epi16(_mm256_permute4x64_epi64(words, 0x10),
                               _mm256_permute4x64_epi64(words, 0x32));
}
inline Ints fours_together(Ints bytes) {
  const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
  return _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(order));
}
#endif

// Numbers of 16 bits of channels, in the order of the i-th of two registers of words: of kPixels
// pixels, the channels of which fill a register of bytes.
template <int kPixels>
inline Ints packed_table(const std::int16_t* words, [[maybe_unused]] int i) {
#if defined(RSQUANT_WIDE_BYTES)
  if constexpr (kPixels == 4) return packed_order(twice16(words));
#endif
  return packed_order(load(words + (kPixels == 1 ? i * 2 * kLanes : 0)));
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
