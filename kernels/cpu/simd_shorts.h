// 16 numbers of 16 bits in a 256-bit register: what AVX2 and AVX-512 share. See simd.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

#define RSQUANT_WORD_LEVELS  // `to_shorts` limits to 16 bits, no less: see word_epilogue.h

struct Shorts {
  __m256i v;
};

inline Shorts widen16(const std::uint8_t* from) {
  return {_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
}
inline Shorts spread16(std::int16_t value) { return {_mm256_set1_epi16(value)}; }
inline Shorts add(Shorts a, Shorts b) { return {_mm256_adds_epi16(a.v, b.v)}; }
inline Shorts largest(Shorts a, Shorts b) { return {_mm256_max_epi16(a.v, b.v)}; }
inline Shorts smallest(Shorts a, Shorts b) { return {_mm256_min_epi16(a.v, b.v)}; }

// Two pixels at once.
constexpr int kAtOnce = 2;
typedef std::uint8_t ByteVector __attribute__((vector_size(32)));
typedef std::int8_t SignedByteVector __attribute__((vector_size(32)));

inline ByteVector narrow(const Shorts* v) {
  const __m256i packed = _mm256_packus_epi16(v[0].v, v[1].v);  // 8 of each | 8 of each
  return (ByteVector)_mm256_permute4x64_epi64(packed, 0xD8);
}
inline ByteVector repeat(Bytes16 v) { return (ByteVector)_mm256_broadcastsi128_si256((__m128i)v); }
inline Bytes16 part(ByteVector v, int i) {
  return (Bytes16)(i == 0 ? _mm256_castsi256_si128((__m256i)v)
                          : _mm256_extracti128_si256((__m256i)v, 1));
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
