// The loop of a direct convolution: a tile of kTilePixels output pixels times kTileVectors vectors
// of output channels. See direct.cpp.
#pragma once

#include <cstring>

#include "epilogue.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kBlock = kTileVectors * kLanes;  // output channels of a tile
static_assert(kBlock % kGroup == 0, "the epilogue takes 16 channels");
static_assert(kChannelBlock % kBlock == 0, "tables per channel are filled up to whole blocks");

// A group's last block has half of the vectors where its channels fit them and the epilogue takes
// as few (of 32 channels: those of 512-bit registers).
constexpr bool kHalfBlocks = kBlock / 2 % kGroup == 0;
constexpr int kHalfVectors = kHalfBlocks ? kTileVectors / 2 : kTileVectors;

// Channels of the tile for `exist` of them.
inline int tile_channels(int exist) {
  return kHalfBlocks && exist <= kBlock / 2 ? kBlock / 2 : kBlock;
}

// Output pixels of a tile: where their windows begin.
struct Pixels {
  const std::uint8_t* window[kTilePixels];
};

// Output pixels in row order, and where their windows begin.
struct Cursor {
  int y, x;
  const std::uint8_t* window;
};

// Sums of 0. One by one: GCC clears a whole array in memory, which takes as long as 8 steps.
template <class Sum, int P, int V>
inline void clear(Sum (&sum)[P][V]) {
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[p][v] = Sum{};
  }
}

// Weights are asked for so many bytes before they are used. On small maps few pixels share them,
// and the processor's own prefetching stops at the end of each page of 4 KB. AVX2, map of 3x3, 512
// channels: 0.174 -> 0.157 ms; 7x7: 0.70 -> 0.685.
constexpr std::size_t kAhead = 2048;
constexpr std::size_t kStepBytes = kTileVectors * sizeof(Ints);

// Adds steps [0, count) of one run to the sums.
template <class Dot, int P, int V>
inline void add_steps(const Pixels& pixels, std::int64_t offset, const std::uint8_t* weights,
                      std::int64_t count, typename Dot::Sum (&sum)[P][V]) {
  constexpr std::size_t kStep = V * sizeof(Ints);
  const std::uint8_t* at[P];
  for (int p = 0; p < P; ++p) at[p] = pixels.window[p] + offset;
  for (std::int64_t i = 0; i < count; ++i) {
    Ints w[V];
    for (int v = 0; v < V; ++v) w[v] = load(weights + (i * V + v) * sizeof(Ints));
    for (std::size_t line = 0; line < kStep; line += 64) {
      __builtin_prefetch(weights + i * kStep + kAhead + line);
    }
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      std::int32_t four;
      std::memcpy(&four, at[p] + 4 * i, 4);
      const Ints a = broadcast(four);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[p][v] = Dot::step(sum[p][v], a, w[v]);
    }
  }
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
