// Tables of conv.h's WordLevels, made of those of 32 bits. Not for files compiled per instruction
// set: see the warning in kernels.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "conv.h"

namespace rsquant {

// Bytes of the tables.
inline std::size_t word_levels_bytes(const Epilogue& e, int channels) {
  return static_cast<std::size_t>(padded_channels(channels)) *
         (4 + (2 * static_cast<std::size_t>(e.thresholds) + 1) * 2);
}

// The tables of an epilogue with integer thresholds, or nulls where thresholds of a channel are too
// far apart. A threshold that every sum exceeds is part of the base; one that none exceeds is the
// largest number of 16 bits.
//
// most: no accumulator is larger, or smaller than -most.
// to: as many zeros as `word_levels_bytes` says.
inline WordLevels make_word_levels(const Epilogue& e, int channels, std::int64_t most,
                                   std::uint8_t* to) {
  constexpr std::int64_t kNever = 32767;
  if (most > std::int64_t{1} << 30) return {};  // acc + shift might leave 32 bits
  const std::int64_t padded = padded_channels(channels);
  const int count = e.thresholds;
  std::int32_t* shift = reinterpret_cast<std::int32_t*>(to);
  std::int16_t* words = reinterpret_cast<std::int16_t*>(shift + padded);
  for (int c = 0; c < channels; ++c) {
    std::int64_t low = most, high = -most;
    for (int k = 0; k < count; ++k) {
      const std::int64_t t = static_cast<const std::int32_t*>(e.threshold[k])[c];
      if (t < -most || t >= most) continue;
      low = std::min(low, t), high = std::max(high, t);
    }
    if (high - low >= 2 * kNever - 1) return {};  // so that none becomes kNever
    if (most > kNever && high >= low) shift[c] = static_cast<std::int32_t>(-(low + high) / 2);
    std::int32_t base = e.base[c];
    for (int k = 0; k < count; ++k) {
      const std::int64_t t = static_cast<const std::int32_t*>(e.threshold[k])[c];
      const std::int32_t step = e.sign[c] * e.step[k];
      const bool always = t < -most, never = t >= most;
      if (always) base += step;
      words[k * padded + c] = static_cast<std::int16_t>(always || never ? kNever : t + shift[c]);
      words[(count + k) * padded + c] = static_cast<std::int16_t>(step);
    }
    words[2 * count * padded + c] = static_cast<std::int16_t>(base);
  }
  return {shift, words, padded};
}

}  // namespace rsquant
