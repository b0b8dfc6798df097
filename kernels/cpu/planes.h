// Bits of the planes that weights come in.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// `count` <= 64 bits of a row of 64-bit words, from bit i on.
inline std::uint64_t bits_at(const std::uint8_t* row, std::int64_t i, int count) {
  std::uint64_t low, high = 0;
  const int shift = static_cast<int>(i % 64);
  std::memcpy(&low, row + i / 64 * 8, 8);
  if (shift + count > 64) std::memcpy(&high, row + i / 64 * 8 + 8, 8);
  const std::uint64_t word = shift == 0 ? low : low >> shift | high << (64 - shift);
  return count == 64 ? word : word & ((std::uint64_t{1} << count) - 1);
}

typedef std::uint8_t Sixteen __attribute__((vector_size(16)));

// 16 rows of 16 bytes to columns. Four times the same: of rows 0 and 8, 1 and 9, .. the bytes in
// turn, so that after each time a bit of the byte's number has become one of the row's.
inline void transpose(Sixteen (&rows)[16]) {
#pragma GCC unroll 4
  for (int round = 0; round < 4; ++round) {
    Sixteen next[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      next[2 * i] = __builtin_shufflevector(rows[i], rows[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20,
                                            5, 21, 6, 22, 7, 23);
      next[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + 8], 8, 24, 9, 25, 10, 26, 11, 27,
                                                12, 28, 13, 29, 14, 30, 15, 31);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) rows[i] = next[i];
  }
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
