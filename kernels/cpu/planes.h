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

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
