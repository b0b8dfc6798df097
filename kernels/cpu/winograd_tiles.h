// What the Winograd convolutions share: which shapes they take, how the output is cut into tiles,
// and how the sums of tiles get to the epilogue.
//
// Tiles that reach over the edge read the last row or column of the input again. Those values meet
// only outputs that do not exist: the arithmetic is exact, so the others do not depend on them.
#pragma once

#include <cstring>

#include "epilogue.h"
#include "levels.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

inline int ceil_divide(int n, int by) { return (n + by - 1) / by; }

inline bool is_3x3(const ConvShape& s) {
  return s.kernel_h == 3 && s.kernel_w == 3 && s.stride_h == 1 && s.stride_w == 1 &&
         s.dilation_h == 1 && s.dilation_w == 1 && s.groups == 1;
}

// Tiles of kOut x kOut outputs, in row order, in groups of nearly the same size. A task is one
// group and one chunk of the output channels. With few groups there are several chunks, so that
// threads find work, and the input is transformed beforehand; else a task transforms its own.
struct Tiles {
  static constexpr int kEnoughTasks = 8;

  int across, count, groups, most, chunks;

  Tiles(const ConvShape& s, int out, int most_of_group, int channel_blocks) {
    across = ceil_divide(s.out_w, out);
    count = across * ceil_divide(s.out_h, out);
    // Weights are prepared without a size: no tiles then, and one group of them.
    groups = count > 0 ? ceil_divide(count, most_of_group) : 1;
    // A multiple of 4, so that 2 or 4 threads get equal shares.
    if (groups >= kEnoughTasks) groups = ceil_divide(groups, 4) * 4;
    most = ceil_divide(count, groups);
    chunks = groups >= kEnoughTasks ? 1 : ceil_divide(2 * kEnoughTasks, groups);
    if (chunks > channel_blocks) chunks = channel_blocks;
  }
  int first(int group) const {
    return static_cast<int>(static_cast<std::int64_t>(count) * group / groups);
  }
  int group_of(int tile) const {
    int group = 0;
    while (tile >= first(group + 1)) ++group;
    return group;
  }
};

// Where the rows and columns of a tile's input lie.
template <int kIn>
struct Window {
  const std::uint8_t* corner;
  std::int64_t row[kIn], column[kIn];

  Window(const ConvShape& s, const Tiles& tiles, const std::uint8_t* input, int tile) {
    const int y = tile / tiles.across * (kIn - 2), x = tile % tiles.across * (kIn - 2);
    const int last_y = s.out_h + 1, last_x = s.out_w + 1;
    corner = input + window_offset(s, 0, 0);
    for (int i = 0; i < kIn; ++i) {
      row[i] = (y + i < last_y ? y + i : last_y) * row_bytes(s);
      column[i] = static_cast<std::int64_t>(x + i < last_x ? x + i : last_x) * s.pixel_bytes;
    }
  }
};

// Levels of a block of output channels, as they are transformed: kStep input channels and kOutputs
// output channels to a vector, nine vectors (the taps) together:
// [kStep channels][kOutputs channels][tap][output][input channel].
template <int kBlockChannels, int kOutputs, int kStep>
void gather_levels(const ConvShape& s, const ConvWeights& w, int block, std::int8_t* out) {
  constexpr int kVector = kOutputs * kStep, kStepBytes = 9 * kBlockChannels * kStep;
  std::memset(out, 0, static_cast<std::size_t>(s.pixel_bytes / kStep) * kStepBytes);
  const std::int64_t n = std::int64_t{9} * s.in_channels;
  // Then the channels of a step have one tap, and move together.
  const int together = s.in_channels % kStep == 0 ? kStep : 1;
  for (int o = 0; o < kBlockChannels && block * kBlockChannels + o < s.out_channels; ++o) {
    std::int8_t* to = out + o / kOutputs * 9 * kVector + o % kOutputs * kStep;
    int tap = 0, channel = 0;
    for (std::int64_t i = 0; i < n; i += 32) {
      std::int8_t levels[32];
      levels_at(s, w, block * kBlockChannels + o, i, n, levels);
      const int some = n - i < 32 ? static_cast<int>(n - i) : 32;
      for (int k = 0; k < some; k += together) {
        std::int8_t* at = to + channel / kStep * kStepBytes + tap * kVector;
        if (together == kStep) {
          std::memcpy(at, levels + k, kStep);
        } else {
          at[channel % kStep] = levels[k];
        }
        channel += together;
        if (channel == s.in_channels) channel = 0, ++tap;
      }
    }
  }
}

// Takes kChannels channels from `channel` on, those that exist, of `count` tiles from `first` on
// through the output transform and the epilogue: tiles beside each other together, kPixels at most.
// transform(i, acc, row): writes accumulators of the i-th tile, kChannels to a pixel, `row` from
// row to row.
template <int kOut, int kChannels, int kPixels, class Transform>
inline void finish_tiles(const ConvRun& run, const Tiles& tiles, int first, int count, int channel,
                         const Transform& transform) {
  constexpr int kBeside = kPixels / kOut, kRow = kBeside * kOut * kChannels;
  const ConvShape& s = run.shape;
  for (int t = 0; t < count;) {
    const int y = (first + t) / tiles.across * kOut, column = (first + t) % tiles.across;
    int beside = tiles.across - column < kBeside ? tiles.across - column : kBeside;
    if (beside > count - t) beside = count - t;
    alignas(64) std::int32_t acc[kOut * kRow];
    for (int i = 0; i < beside; ++i) transform(t + i, acc + i * kOut * kChannels, kRow);
    const int x = column * kOut, width = beside * kOut;
    const int pixels = s.out_w - x < width ? s.out_w - x : width;
    for (int i = 0; i < kOut && y + i < s.out_h; ++i) {
      finish_channels(run.epilogue, s, acc + i * kRow, kChannels, pixels, y + i, x, channel,
                      kChannels, s.out_channels);
    }
    t += beside;
  }
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
