// Tables of conv.h's WordLevels, made of those of 32 bits. Not for files compiled per instruction
// set: see the warning in kernels.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "conv.h"

namespace rsquant {

// Bytes of the tables.
inline std::size_t word_levels_bytes(const Epilogue& e, int channels) {
  const std::size_t padded = static_cast<std::size_t>(padded_channels(channels));
  const std::size_t words = padded * (4 + (2 * static_cast<std::size_t>(e.thresholds) + 1) * 2);
  return words + (e.thresholds == kMaxThresholds ? padded * kRankTables + kRankValues : 0);
}

// The tables of an epilogue with integer thresholds, or nulls where thresholds of a channel are too
// far apart, or 15 of them do not ascend (where the level falls: descend) with k. A threshold that
// every sum exceeds is part of the base; one that none exceeds is the largest number of 16 bits.
//
// most: no accumulator is larger, or smaller than -most.
// to: as many zeros as `word_levels_bytes` says.
inline WordLevels make_word_levels(const Epilogue& e, int channels, std::int64_t most,
                                   std::uint8_t* to) {
  constexpr std::int64_t kNever = 32767;
  if (most > std::int64_t{1} << 30) return {};  // acc + shift might leave 32 bits
  const std::int64_t padded = padded_channels(channels);
  const int count = e.thresholds;
  const bool ranked = count == kMaxThresholds;
  std::int32_t* shift = reinterpret_cast<std::int32_t*>(to);
  std::int16_t* words = reinterpret_cast<std::int16_t*>(shift + padded);
  std::uint8_t* ranks = reinterpret_cast<std::uint8_t*>(words + (2 * count + 1) * padded);
  std::uint8_t* values = ranks + kRankTables * padded;  // of 15 alone
  const auto threshold = [&](int k, int c) -> std::int64_t {
    return static_cast<const std::int32_t*>(e.threshold[k])[c];
  };
  bool short_shift = true;
  int all = 0;  // steps
  for (int k = 0; k < count; ++k) {
    all += e.step[k];
    if (ranked) values[k + 1] = static_cast<std::uint8_t>(all);
  }
  for (int c = 0; c < channels; ++c) {
    const bool falls = e.sign[c] < 0;
    const auto ascending = [&](int i) { return falls ? count - 1 - i : i; };
    std::int64_t low = most, high = -most;
    for (int i = 0; i < count; ++i) {
      const std::int64_t t = threshold(ascending(i), c);
      if (ranked && i > 0 && t < threshold(ascending(i - 1), c)) return {};
      if (t < -most || t >= most) continue;
      low = std::min(low, t), high = std::max(high, t);
    }
    if (high - low >= 2 * kNever - 1) return {};  // so that none becomes kNever
    if (most > kNever && high >= low) shift[c] = static_cast<std::int32_t>(-(low + high) / 2);
    short_shift = short_shift && shift[c] >= -kNever && shift[c] <= kNever;
    std::int32_t base = e.base[c];
    int place = 0, always = 0;
    for (int i = 0; i < count; ++i) {
      const int k = ascending(i);
      const std::int64_t t = threshold(k, c);
      const std::int32_t step = e.sign[c] * e.step[k];
      if (t < -most) base += step, ++always;
      if (t < -most || t >= most) continue;
      words[place * padded + c] = static_cast<std::int16_t>(t + shift[c]);
      words[(count + place) * padded + c] = static_cast<std::int16_t>(step);
      ++place;
    }
    for (; place < count; ++place) words[place * padded + c] = static_cast<std::int16_t>(kNever);
    words[2 * count * padded + c] = static_cast<std::int16_t>(base);
    if (!ranked) continue;
    ranks[c] = falls ? kMaxThresholds : 0;  // 15 - passed
    ranks[padded + c] = static_cast<std::uint8_t>(falls ? -always : always);
    ranks[2 * padded + c] = static_cast<std::uint8_t>(falls ? e.base[c] - all : e.base[c]);
  }
  if (!ranked) return {shift, short_shift, words, padded, {}};
  return {shift, short_shift, words, padded, {ranks, values, padded}};
}

}  // namespace rsquant
