// Tables of sums on x86, from AVX2 on; see `Lookup` in simd.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Bytes a0 .. a15 to four tables. Entry m is the sum of two: that of the pair (a0, a1), taken by
// the lower two bits of m, and that of (a2, a3); each is 0, one of the two bytes or their sum.
inline void make_four_tables(const std::uint8_t* bytes, std::uint8_t* out) {
  constexpr char kNone = -128;
  // A vector: a0 .. a7, then a0 + a1, -, a2 + a3, -, ..  Its lower half makes the table of
  // a0 .. a3, its upper half that of a4 .. a7.
  const __m256i first =
      _mm256_setr_epi8(kNone, 0, 1, 8, kNone, 0, 1, 8, kNone, 0, 1, 8, kNone, 0, 1, 8,  //
                       kNone, 4, 5, 12, kNone, 4, 5, 12, kNone, 4, 5, 12, kNone, 4, 5, 12);
  const __m256i second =
      _mm256_setr_epi8(kNone, kNone, kNone, kNone, 2, 2, 2, 2, 3, 3, 3, 3, 10, 10, 10, 10,  //
                       kNone, kNone, kNone, kNone, 6, 6, 6, 6, 7, 7, 7, 7, 14, 14, 14, 14);
  const __m256i a =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  const __m256i sums = _mm256_add_epi8(a, _mm256_srli_epi16(a, 8));
  const __m256i low = _mm256_unpacklo_epi64(a, sums), high = _mm256_unpackhi_epi64(a, sums);
  __m256i* to = reinterpret_cast<__m256i*>(out);
  _mm256_storeu_si256(
      to, _mm256_add_epi8(_mm256_shuffle_epi8(low, first), _mm256_shuffle_epi8(low, second)));
  _mm256_storeu_si256(
      to + 1, _mm256_add_epi8(_mm256_shuffle_epi8(high, first), _mm256_shuffle_epi8(high, second)));
}

inline std::int32_t sum_of_bytes(const std::uint8_t* bytes, int count) {
  __m256i sum = _mm256_setzero_si256();
  int i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m256i some = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + i));
    sum = _mm256_add_epi32(sum, _mm256_sad_epu8(some, _mm256_setzero_si256()));
  }
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
  half = _mm_add_epi32(half, _mm_unpackhi_epi64(half, half));
  std::int32_t total = _mm_cvtsi128_si32(half);
  for (; i < count; ++i) total += bytes[i];
  return total;
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
