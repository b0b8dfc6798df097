// Bits of the planes that weights come in.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Word i of a row of 64-bit words.
inline std::uint64_t word_at(const std::uint8_t* row, std::int64_t i) {
  std::uint64_t word;
  std::memcpy(&word, row + 8 * i, 8);
  return word;
}

// `count` <= 64 bits of a row of 64-bit words, from bit i on.
inline std::uint64_t bits_at(const std::uint8_t* row, std::int64_t i, int count) {
  const int shift = static_cast<int>(i % 64);
  const std::uint64_t low = word_at(row, i / 64);
  const std::uint64_t high = shift + count > 64 ? word_at(row, i / 64 + 1) : 0;
  const std::uint64_t word = shift == 0 ? low : low >> shift | high << (64 - shift);
  return count == 64 ? word : word & ((std::uint64_t{1} << count) - 1);
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
