// Numbers of 32 bits packed to 16 and to 8: within 16-byte parts of a register, so that bytes of
// four vectors are in groups of four, groups j of the vectors following each other. One
// permutation, its own inverse, changes between this order and that of memory.
#pragma once

#include "conv.h"
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
#endif

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
