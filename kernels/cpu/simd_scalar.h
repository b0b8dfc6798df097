// No instruction set in particular: 4 lanes that the compiler maps to what the architecture's
// baseline has. See simd.h.
#pragma once

#include <cstdint>
#include <cstring>

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kLanes = 4;
constexpr int kTileVectors = 4, kTilePixels = 4;

typedef std::int32_t Ints __attribute__((vector_size(16)));
typedef float Floats __attribute__((vector_size(16)));

inline Ints load(const void* from) {
  Ints v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}
inline void store(void* to, Ints v) { std::memcpy(to, &v, sizeof(v)); }
inline Ints broadcast(std::int32_t value) { return Ints{value, value, value, value}; }
inline Ints add(Ints a, Ints b) { return a + b; }
inline Ints subtract(Ints a, Ints b) { return a - b; }
inline Ints multiply_sign(Ints a, Ints sign) { return sign < 0 ? -a : a; }
inline Ints and_greater(Ints a, Ints b, Ints value) { return (a > b) & value; }
inline Ints and_greater(Floats a, Floats b, Ints value) { return (a > b) & value; }

inline Floats load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}
inline void store(float* to, Floats v) { std::memcpy(to, &v, sizeof(v)); }
inline Floats broadcast(float value) { return Floats{value, value, value, value}; }
inline Floats add(Floats a, Floats b) { return a + b; }
inline Floats multiply(Floats a, Floats b) { return a * b; }
inline Floats largest(Floats a, Floats b) { return a > b ? a : b; }
inline Floats smallest(Floats a, Floats b) { return a < b ? a : b; }
inline Floats to_float(Ints v) { return __builtin_convertvector(v, Floats); }
// Adding 1.5 * 2^23 to a number below 2^22 rounds it to an integer, half to even, and leaves that
// in the low bits. What is larger is as good as 2^21: it becomes 16 bits next.
inline Ints round(Floats v) {
  const Floats magic = broadcast(12582912.0f);
  v = smallest(largest(v, broadcast(-2097152.0f)), broadcast(2097152.0f));
  return (Ints)(v + magic) - (Ints)magic;
}

typedef std::int16_t Words __attribute__((vector_size(16)));

struct Shorts {
  Words low, high;
};
inline Words largest(Words a, Words b) { return a > b ? a : b; }
inline Words smallest(Words a, Words b) { return a < b ? a : b; }
// Limited so that a byte or two may be added.
inline Shorts to_shorts(const Ints* v) {
  Shorts s;
  for (int i = 0; i < 8; ++i) {
    const std::int32_t one = v[i / 4][i % 4], two = v[2 + i / 4][i % 4];
    s.low[i] = static_cast<std::int16_t>(one > 16384 ? 16384 : one < -16384 ? -16384 : one);
    s.high[i] = static_cast<std::int16_t>(two > 16384 ? 16384 : two < -16384 ? -16384 : two);
  }
  return s;
}
inline Shorts widen16(const std::uint8_t* from) {
  typedef std::uint8_t Bytes __attribute__((vector_size(8)));
  Bytes low, high;
  std::memcpy(&low, from, 8);
  std::memcpy(&high, from + 8, 8);
  return {__builtin_convertvector(low, Words), __builtin_convertvector(high, Words)};
}
inline Shorts spread16(std::int16_t value) {
  const Words v = {value, value, value, value, value, value, value, value};
  return {v, v};
}
inline Shorts add(Shorts a, Shorts b) { return {a.low + b.low, a.high + b.high}; }
inline Shorts largest(Shorts a, Shorts b) {
  return {largest(a.low, b.low), largest(a.high, b.high)};
}
inline Shorts smallest(Shorts a, Shorts b) {
  return {smallest(a.low, b.low), smallest(a.high, b.high)};
}

constexpr int kAtOnce = 1;
typedef Bytes16 ByteVector;
typedef SignedBytes16 SignedByteVector;

inline ByteVector narrow(const Shorts* v) {
  const Shorts a = smallest(largest(v[0], spread16(0)), spread16(255));
  Bytes16 bytes;
  for (int i = 0; i < 8; ++i) {
    bytes[i] = static_cast<std::uint8_t>(a.low[i]);
    bytes[8 + i] = static_cast<std::uint8_t>(a.high[i]);
  }
  return bytes;
}
inline ByteVector repeat(Bytes16 v) { return v; }
inline Bytes16 part(ByteVector v, int) { return v; }

inline void store_bytes(std::uint8_t* to, const Ints* v) {
  for (int i = 0; i < 16; ++i) to[i] = static_cast<std::uint8_t>(v[i / 4][i % 4]);
}

struct ByteDot {
  static constexpr bool kNarrow = false;
  typedef Ints Sum;
  static Sum step(Sum sum, Ints a, Ints w) {
    for (int i = 0; i < 4; ++i) sum += ((a >> (8 * i)) & 255) * ((w << (24 - 8 * i)) >> 24);
    return sum;
  }
  static Ints widen(Sum sum) { return sum; }
};

struct WordDot {
  static constexpr bool kNarrow = false;
  typedef Ints Sum;
  static Sum step(Sum sum, Ints a, Ints w) {
    return sum + ((a << 16) >> 16) * ((w << 16) >> 16) + (a >> 16) * (w >> 16);
  }
  static Ints widen(Sum sum) { return sum; }
};

inline void decode32(const std::uint32_t* planes, int bits, std::int8_t offset,
                     const std::int8_t* worth, std::int8_t* out) {
  for (int i = 0; i < 32; ++i) {
    int level = offset;
    for (int k = 0; k < bits; ++k) level += (planes[k] >> i & 1) != 0 ? worth[k] : 0;
    out[i] = static_cast<std::int8_t>(level);
  }
}

inline Ints widen_bytes(const std::uint8_t* from) {
  typedef std::uint8_t Bytes __attribute__((vector_size(8)));
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof(bytes));
  return (Ints) __builtin_convertvector(bytes, Words);
}
inline Ints multiply_add16(Ints sum, Ints a, Ints b) {
  return (Ints)((Words)sum + (Words)a * (Words)b);
}
inline void add_to(std::int32_t* to, Ints words) {
  for (int i = 0; i < 2 * kLanes; ++i) to[i] += ((Words)words)[i];
}

// --- Bit planes: 64 bits at a time, so that the algorithm runs everywhere. ---

#define RSQUANT_BITPLANES

inline Ints multiply(Ints a, Ints b) {
  typedef std::uint32_t Wrapping __attribute__((vector_size(16)));
  return (Ints)((Wrapping)a * (Wrapping)b);
}

struct BitDot {
  static constexpr int kChannels = 1, kPixels = 2, kSteps = 1 << 24;
  typedef std::uint64_t Sum;
  static Sum load(const void* from) {
    Sum word;
    std::memcpy(&word, from, sizeof(word));
    return word;
  }
  static Sum spread(std::uint64_t word) { return word; }
  static Sum step(Sum sum, Sum a, Sum w) {
    return sum + static_cast<Sum>(__builtin_popcountll(a & w));
  }
  static Ints weigh(Ints acc, const Sum* sums, Ints factor) {
    for (int i = 0; i < kLanes; ++i) {
      const std::uint32_t product =
          static_cast<std::uint32_t>(sums[i]) * static_cast<std::uint32_t>(factor[i]);
      acc[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(acc[i]) + product);
    }
    return acc;
  }
};

inline void split64(const std::uint8_t* bytes, const Codes& codes, std::uint64_t* words) {
  for (int j = 0; j < codes.planes; ++j) words[j] = 0;
  for (int i = 0; i < 64; ++i) {
    const std::uint64_t code = codes.of[bytes[i] & 127];
    for (int j = 0; j < codes.planes; ++j) words[j] |= (code >> j & 1) << i;
  }
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
