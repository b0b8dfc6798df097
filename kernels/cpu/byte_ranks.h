// The Ranks of 15 thresholds of bytes. Not for files compiled per instruction set: see the warning
// in kernels.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "conv.h"

namespace rsquant {

// Tables of a ByteEpilogue with 15 thresholds, [k][channel], each `padded` long.
struct ByteThresholds {
  std::int8_t* threshold;
  std::uint8_t* step;
  const std::uint8_t* base;
  std::int64_t padded;
};

inline std::size_t byte_ranks_bytes(std::int64_t padded) {
  return static_cast<std::size_t>(kRankTables * padded + kRankValues);
}

// Puts the thresholds of each channel in ascending order, which changes no level. Nulls where all
// channels do not have steps of the same sizes: a step of 0 is one of a threshold that every byte
// exceeds, and so part of the base; where the level falls steps are negative, and thresholds
// descend.
//
// to: as many bytes as `byte_ranks_bytes` says.
inline Ranks make_byte_ranks(const ByteThresholds& of, int channels, std::uint8_t* to) {
  constexpr int kCount = kMaxThresholds;
  std::uint8_t* values = to + kRankTables * of.padded;
  const auto step = [&](int k, int c) -> int {
    return static_cast<std::int8_t>(of.step[k * of.padded + c]);
  };
  int all[kCount + 1] = {};
  for (int k = 0; k < kCount; ++k) {
    int size = 0;
    for (int c = 0; c < channels; ++c) size = std::max(size, std::abs(step(k, c)));
    all[k + 1] = all[k] + size;
  }
  for (int k = 0; k <= kCount; ++k) values[k] = static_cast<std::uint8_t>(all[k]);
  for (int c = 0; c < channels; ++c) {
    bool falls = false;
    for (int k = 0; k < kCount; ++k) falls = falls || step(k, c) < 0;
    const auto ascending = [&](int i) { return falls ? kCount - 1 - i : i; };
    int always = 0;
    while (always < kCount && step(ascending(always), c) == 0) ++always;
    std::int8_t found[kCount];
    std::uint8_t steps[kCount] = {};
    std::fill_n(found, kCount, std::int8_t{127});
    for (int i = always; i < kCount; ++i) {
      const int k = ascending(i), size = all[k + 1] - all[k];
      const std::int8_t t = of.threshold[k * of.padded + c];
      if (step(k, c) != (falls ? -size : size)) return {};
      if (i > always && t < found[i - always - 1]) return {};
      found[i - always] = t;
      steps[i - always] = of.step[k * of.padded + c];
    }
    for (int k = 0; k < kCount; ++k) {
      of.threshold[k * of.padded + c] = found[k];
      of.step[k * of.padded + c] = steps[k];
    }
    to[c] = falls ? kCount : 0;  // 15 - passed
    to[of.padded + c] = static_cast<std::uint8_t>(falls ? -always : always);
    to[2 * of.padded + c] =
        static_cast<std::uint8_t>(of.base[c] - all[falls ? kCount - always : always]);
  }
  return {to, values, of.padded};
}

}  // namespace rsquant
