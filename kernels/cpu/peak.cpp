// What the arithmetic units can do: the dot products of the convolutions on registers alone.

#include <cstdint>

#include "peak.h"
#include "simd.h"
#if defined(RSQUANT_LOOKUP)
#include "lookup_layout.h"
#endif

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// The compiler must neither move the product out of the loop nor merge equal ones.
template <class V>
inline void opaque(V& v) {
#if defined(__AVX512F__)
  asm volatile("" : "+v"(v));
#elif defined(__x86_64__)
  asm volatile("" : "+x"(v));
#else
  if constexpr (sizeof(V) > sizeof(Ints)) {
    opaque(v.low);  // a sum in two registers
    opaque(v.high);
  } else {
    asm volatile("" : "+w"(v));
  }
#endif
}

// As many independent sums as a tile of the direct convolution has.
template <class Dot>
std::int64_t dot_loop(std::int64_t iterations, int products) {
  constexpr int kSums = kTileVectors * kTilePixels;
  typename Dot::Sum sum[kSums] = {};
  Ints a = broadcast(0), w = broadcast(0);
  opaque(w);
  for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 32
    for (int k = 0; k < kSums; ++k) {
      opaque(a);
      sum[k] = Dot::step(sum[k], a, w);
    }
  }
#pragma GCC unroll 32
  for (int k = 0; k < kSums; ++k) opaque(sum[k]);
  return iterations * kSums * kLanes * products;
}

#if defined(RSQUANT_BITPLANES)
// AND, POPCNT and ADD; 2-bit weights times 2-bit inputs take four of each a position.
std::int64_t bits(std::int64_t iterations) {
  constexpr int kSums = 12;
  typedef BitDot::Sum Sum;
  Sum sum[kSums] = {};
  Sum a = BitDot::spread(0), w = BitDot::spread(0);
  opaque(w);
  for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 32
    for (int k = 0; k < kSums; ++k) {
      opaque(a);
      sum[k] = BitDot::step(sum[k], a, w);
    }
  }
#pragma GCC unroll 32
  for (int k = 0; k < kSums; ++k) opaque(sum[k]);
  return iterations * kSums * BitDot::kChannels * 64 / 4;
}
#else
std::int64_t bits(std::int64_t) { return 0; }
#endif

#if defined(RSQUANT_LOOKUP)
// Byte sums of a step's tables, as many as one has.
inline Ints look_up(Ints& table, Ints index) {
  opaque(table);
  Ints bytes = Lookup::pick(table, index);
#pragma GCC unroll 4
  for (int t = 1; t < Lookup::kMostTables; ++t) {
    opaque(table);
    bytes = Lookup::add_bytes(bytes, Lookup::pick(table, index));
  }
  return bytes;
}

std::int64_t pair(std::int64_t iterations) {
  constexpr int kSums = Lookup::kVectors * Lookup::kPairPixels;
  Ints sum[kSums] = {};
  Ints table = broadcast(0), index = broadcast(0), factor = broadcast(0);
  opaque(index);
  opaque(factor);
  for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 32
    for (int k = 0; k < kSums; ++k) sum[k] = Lookup::weigh(sum[k], look_up(table, index), factor);
  }
#pragma GCC unroll 32
  for (int k = 0; k < kSums; ++k) opaque(sum[k]);
  return iterations * kSums * 2 * kLanes * Lookup::kMostTables * Lookup::kChannels;
}

std::int64_t plane(std::int64_t iterations) {
  constexpr int kSums = Lookup::kVectors / 2 * Lookup::kSinglePixels;
  Lookup::Single sum[kSums] = {};
  Ints table = broadcast(0), index = broadcast(0);
  opaque(index);
  for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 32
    for (int k = 0; k < kSums; ++k) sum[k] = Lookup::count(sum[k], look_up(table, index));
  }
#pragma GCC unroll 32
  for (int k = 0; k < kSums; ++k) {
    opaque(sum[k].low);
    opaque(sum[k].high);
  }
  return iterations * kSums * 4 * kLanes * Lookup::kMostTables * Lookup::kChannels;
}

// Look-ups and additions of bytes alone.
template <class Lookup = Lookup>
std::int64_t sums(std::int64_t iterations) {
  constexpr int kSums = Lookup::kVectors * Lookup::kBytePixels;
  if constexpr (kSums == 0) {
    return 0;
  } else {
    constexpr int kInTurn = Lookup::kChannels == 6 ? 4 : 1;  // as in lookup_steps.h
    Ints sum[kSums] = {}, table = broadcast(0), index = broadcast(0);
    opaque(index);
    for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 32
      for (int k = 0; k < kSums; k += kInTurn) {
        Ints some[kInTurn];
#pragma GCC unroll 4
        for (int j = 0; j < kInTurn; ++j) {
          opaque(table);
          some[j] = Lookup::pick(table, index);
        }
        if constexpr (kInTurn == 4) Lookup::all_first(some);
#pragma GCC unroll 4
        for (int j = 0; j < kInTurn; ++j) sum[k + j] = Lookup::add_bytes(sum[k + j], some[j]);
      }
    }
#pragma GCC unroll 32
    for (int k = 0; k < kSums; ++k) opaque(sum[k]);
    return iterations * kSums * 2 * kLanes * Lookup::kChannels;
  }
}

// The largest input of which a byte holds several steps.
constexpr int largest_of_sums() {
  int limit = 0;
  while (Steps(limit + 1).together > 1) ++limit;
  return limit;
}
constexpr int kSumsLimit = Lookup::kBytePixels == 0 ? 0 : largest_of_sums();
#else
std::int64_t pair(std::int64_t) { return 0; }
std::int64_t plane(std::int64_t) { return 0; }
template <class = void>
std::int64_t sums(std::int64_t) {
  return 0;
}
constexpr int kSumsLimit = 0;
#endif

std::int64_t bytes(std::int64_t iterations) { return dot_loop<ByteDot>(iterations, 4); }
std::int64_t words(std::int64_t iterations) { return dot_loop<WordDot>(iterations, 2); }

}  // namespace

extern const Peak peak;
const Peak peak = {bytes, words, bits, pair, plane, sums<>, kSumsLimit};

}  // namespace RSQUANT_ISA
}  // namespace rsquant
