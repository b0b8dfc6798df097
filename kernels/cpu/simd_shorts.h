// 16 numbers of 16 bits in a 256-bit register: what AVX2 and AVX-512 share. See simd.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

struct Shorts {
  __m256i v;
};

inline Shorts widen16(const std::uint8_t* from) {
  return {_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
}
inline Shorts spread16(std::int16_t value) { return {_mm256_set1_epi16(value)}; }
inline Shorts add(Shorts a, Shorts b) { return {_mm256_add_epi16(a.v, b.v)}; }
inline Shorts largest(Shorts a, Shorts b) { return {_mm256_max_epi16(a.v, b.v)}; }
inline Shorts smallest(Shorts a, Shorts b) { return {_mm256_min_epi16(a.v, b.v)}; }
inline Bytes16 narrow16(Shorts a) {
  const __m128i high = _mm256_extracti128_si256(a.v, 1);
  return (Bytes16)_mm_packus_epi16(_mm256_castsi256_si128(a.v), high);
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
