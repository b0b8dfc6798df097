// AVX-512 on a processor that has only AVX2, by SIMDe (libsimde-dev): included before everything
// else (-include) it gives the intrinsics that the kernels use other meanings. <immintrin.h> is
// part of it, so that including it again does nothing. Where one is missing here the
// compiler stops: GCC's own does not inline without AVX-512. Then its SIMDe file goes on the list,
// or a definition below.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512/add.h>
#include <simde/x86/avx512/and.h>
#include <simde/x86/avx512/cast.h>
#include <simde/x86/avx512/cmp.h>
#include <simde/x86/avx512/cmpeq.h>
#include <simde/x86/avx512/cmpgt.h>
#include <simde/x86/avx512/dpbusd.h>
#include <simde/x86/avx512/dpwssd.h>
#include <simde/x86/avx512/extract.h>
#include <simde/x86/avx512/load.h>
#include <simde/x86/avx512/loadu.h>
#include <simde/x86/avx512/madd.h>
#include <simde/x86/avx512/maddubs.h>
#include <simde/x86/avx512/max.h>
#include <simde/x86/avx512/min.h>
#include <simde/x86/avx512/mov.h>
#include <simde/x86/avx512/movm.h>
#include <simde/x86/avx512/mul.h>
#include <simde/x86/avx512/mullo.h>
#include <simde/x86/avx512/packs.h>
#include <simde/x86/avx512/packus.h>
#include <simde/x86/avx512/permutex2var.h>
#include <simde/x86/avx512/popcnt.h>
#include <simde/x86/avx512/set.h>
#include <simde/x86/avx512/set1.h>
#include <simde/x86/avx512/setr.h>
#include <simde/x86/avx512/setzero.h>
#include <simde/x86/avx512/store.h>
#include <simde/x86/avx512/storeu.h>
#include <simde/x86/avx512/sub.h>
#include <simde/x86/avx512/unpackhi.h>
#include <simde/x86/avx512/unpacklo.h>
#include <simde/x86/avx512/cvt.h>
#include <simde/x86/avx512/broadcast.h>
#include <simde/x86/avx512/insert.h>
#include <simde/x86/avx512/shuffle.h>
#include <simde/x86/avx512/xor.h>
#include <simde/x86/fma.h>

#include <cstdint>
#include <cstring>

// SIMDe 0.7.4 gives each of these names to the other of a pair.
#undef _mm512_madd_epi16
#define _mm512_madd_epi16 simde_mm512_madd_epi16
#undef _mm512_mask_maddubs_epi16
#define _mm512_mask_maddubs_epi16 simde_mm512_mask_maddubs_epi16

// What it lacks, as the manual has it.

inline __m512 emulated_cvtepi32_ps(__m512i v) {
  std::int32_t from[16];
  float to[16];
  std::memcpy(from, &v, 64);
  for (int i = 0; i < 16; ++i) to[i] = static_cast<float>(from[i]);
  return simde_mm512_loadu_ps(to);
}
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps emulated_cvtepi32_ps

inline __m512i emulated_cvtps_epi32(__m512 v) {
  float from[16];
  std::int32_t to[16];
  std::memcpy(from, &v, 64);
  for (int i = 0; i < 16; i += 8) {
    const __m256i half = _mm256_cvtps_epi32(_mm256_loadu_ps(from + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), half);
  }
  return simde_mm512_loadu_si512(to);
}
#undef _mm512_cvtps_epi32
#define _mm512_cvtps_epi32 emulated_cvtps_epi32

inline __m512i emulated_srai_epi32(__m512i v, unsigned count) {
  std::int32_t lanes[16];
  std::memcpy(lanes, &v, 64);
  for (std::int32_t& lane : lanes) lane >>= count < 32 ? count : 31;
  return simde_mm512_loadu_si512(lanes);
}
#undef _mm512_srai_epi32
#define _mm512_srai_epi32 emulated_srai_epi32

inline __m256i emulated_cvtsepi32_epi16(__m512i v) {
  std::int32_t from[16];
  std::int16_t to[16];
  std::memcpy(from, &v, 64);
  for (int i = 0; i < 16; ++i) {
    to[i] = static_cast<std::int16_t>(from[i] < -32768  ? -32768
                                      : from[i] > 32767 ? 32767
                                                        : from[i]);
  }
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(to));
}
#undef _mm512_cvtsepi32_epi16
#define _mm512_cvtsepi32_epi16 emulated_cvtsepi32_epi16

inline __m128i emulated_cvtepi32_epi8(__m512i v) {
  std::int32_t from[16];
  std::uint8_t to[16];
  std::memcpy(from, &v, 64);
  for (int i = 0; i < 16; ++i) to[i] = static_cast<std::uint8_t>(from[i]);
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(to));
}
#undef _mm512_cvtepi32_epi8
#define _mm512_cvtepi32_epi8 emulated_cvtepi32_epi8

inline __m512i emulated_cvtepu8_epi16(__m256i v) {
  std::uint8_t from[32];
  std::uint16_t to[32];
  std::memcpy(from, &v, 32);
  for (int i = 0; i < 32; ++i) to[i] = from[i];
  return simde_mm512_loadu_si512(to);
}
#undef _mm512_cvtepu8_epi16
#define _mm512_cvtepu8_epi16 emulated_cvtepu8_epi16

inline __m512i emulated_cvtepi16_epi32(__m256i v) {
  std::int16_t from[16];
  std::int32_t to[16];
  std::memcpy(from, &v, 32);
  for (int i = 0; i < 16; ++i) to[i] = from[i];
  return simde_mm512_loadu_si512(to);
}
#undef _mm512_cvtepi16_epi32
#define _mm512_cvtepi16_epi32 emulated_cvtepi16_epi32

inline __m256i emulated_mask_add_epi8(__m256i from, std::uint32_t mask, __m256i a, __m256i b) {
  std::uint8_t old[32], left[32], right[32];
  std::memcpy(old, &from, 32);
  std::memcpy(left, &a, 32);
  std::memcpy(right, &b, 32);
  for (int i = 0; i < 32; ++i) {
    if (mask >> i & 1) old[i] = static_cast<std::uint8_t>(left[i] + right[i]);
  }
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(old));
}
#undef _mm256_mask_add_epi8
#define _mm256_mask_add_epi8 emulated_mask_add_epi8

inline __m512i emulated_permutexvar_epi8(__m512i index, __m512i table) {
  std::uint8_t at[64], from[64], to[64];
  std::memcpy(at, &index, 64);
  std::memcpy(from, &table, 64);
  for (int i = 0; i < 64; ++i) to[i] = from[at[i] & 63];
  return simde_mm512_loadu_si512(to);
}
#undef _mm512_permutexvar_epi8
#define _mm512_permutexvar_epi8 emulated_permutexvar_epi8

inline __m128i emulated_maskz_loadu_epi8(std::uint16_t mask, const void* from) {
  std::uint8_t to[16] = {};
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) to[i] = static_cast<const std::uint8_t*>(from)[i];
  }
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(to));
}
#undef _mm_maskz_loadu_epi8
#define _mm_maskz_loadu_epi8 emulated_maskz_loadu_epi8

inline __m256i emulated_maskz_loadu_epi8_256(std::uint32_t mask, const void* from) {
  std::uint8_t to[32] = {};
  for (int i = 0; i < 32; ++i) {
    if (mask >> i & 1) to[i] = static_cast<const std::uint8_t*>(from)[i];
  }
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(to));
}
#undef _mm256_maskz_loadu_epi8
#define _mm256_maskz_loadu_epi8 emulated_maskz_loadu_epi8_256

// What the kernels ask the compiler for; only now, or SIMDe would use the real instructions.
#if defined(EMULATE_VNNI)
#define __AVX512VNNI__ 1
#endif

template <class Vector, class Mask>
inline Mask emulated_cmpgt_epi16_mask(Vector a, Vector b) {
  constexpr int kWords = static_cast<int>(sizeof(Vector)) / 2;
  std::int16_t of_a[kWords], of_b[kWords];
  std::memcpy(of_a, &a, sizeof(a));
  std::memcpy(of_b, &b, sizeof(b));
  Mask mask = 0;
  for (int i = 0; i < kWords; ++i) mask |= static_cast<Mask>(Mask{of_a[i] > of_b[i]} << i);
  return mask;
}
#undef _mm512_cmpgt_epi16_mask
#define _mm512_cmpgt_epi16_mask emulated_cmpgt_epi16_mask<__m512i, std::uint32_t>
#undef _mm256_cmpgt_epi16_mask
#define _mm256_cmpgt_epi16_mask emulated_cmpgt_epi16_mask<__m256i, std::uint16_t>

template <class Vector>
inline void emulated_mask_storeu_epi8(void* to, std::uint64_t mask, Vector v) {
  std::uint8_t from[sizeof(Vector)];
  std::memcpy(from, &v, sizeof(v));
  for (std::size_t i = 0; i < sizeof(v); ++i) {
    if (mask >> i & 1) static_cast<std::uint8_t*>(to)[i] = from[i];
  }
}
#undef _mm512_mask_storeu_epi8
#define _mm512_mask_storeu_epi8 emulated_mask_storeu_epi8<__m512i>
#undef _mm256_mask_storeu_epi8
#define _mm256_mask_storeu_epi8 emulated_mask_storeu_epi8<__m256i>
