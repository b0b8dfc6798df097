// What every instruction set provides, and the conditions its functions may rely on.
//
// Files compiled per instruction set include this header, <cstdint>, <cstddef> and <cstring>, and
// no other: an inline function of a C++ header instantiated there would be compiled with, say,
// AVX-512 and might be the copy the linker keeps for the whole module. For the same reason all
// they define sits in the namespace rsquant::<isa> or is local to the file.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rsquant {

constexpr int kMaxLevels = 16;  // 4 bits

// Values per chunk: 16 lanes of 16 values each. See quantize.cpp for what follows from it.
constexpr std::size_t kLanes = 16;
constexpr std::size_t kDepth = 16;
constexpr std::size_t kChunk = kLanes * kDepth;

// Values per block: the unit of work of a thread, and of the sum over the whole tensor. It is
// fixed, so that the result does not depend on how many threads share the blocks. 128 KiB of
// input: enough that a block costs microseconds, small enough that 1e5 values make several.
constexpr std::size_t kBlock = 128 * kChunk;

// Levels and thresholds of one quantizer; `thresholds[k]` lies between levels k and k + 1.
struct Levels {
  int count;  // 2, 4, 8 or 16
  float levels[kMaxLevels];
  float thresholds[kMaxLevels - 1];
};

// Which values pass a gradient: bottom <= x <= top. Rectified: of x's positive part, which is also
// what is quantized, and x > 0 in place of the bottom.
struct Inside {
  float bottom;
  float top;
  bool rectified;
};

// Words of bits for n values: a chunk that was begun has all of its lanes.
constexpr std::size_t inside_words(std::size_t n) { return (n + kChunk - 1) / kChunk * kLanes; }

// Counts and sums of one block.
struct LevelStats {
  std::int64_t counts[kMaxLevels];
  double sums[kMaxLevels];
};

// The kernels of one instruction set. All pointers are aligned to 4 bytes, no more.
struct Kernels {
  // Quantizes n <= kBlock values. `out` is `x` itself or does not overlap it.
  void (*quantize_block)(const float* x, std::size_t n, const Levels& levels, float* out,
                         LevelStats& stats);

  // The same with bit i % kDepth (counted in rows of a chunk) of `inside` for values that pass a
  // gradient; see quantize.cpp. `inside` has a word per lane of every chunk that was begun.
  void (*quantize_block_inside)(const float* x, std::size_t n, const Levels& levels,
                                const Inside& passes, float* out, std::uint16_t* inside,
                                LevelStats& stats);

  // Quantizes n values of one row of weights, with float64 sums; no aliasing of `x` and `out`.
  void (*quantize_row)(const float* x, std::size_t n, const Levels& levels, float* out,
                       LevelStats& stats);

  // out[i] = bottom <= x[i] <= top ? grad[i] : 0. `out` may be `grad` or `x` itself.
  void (*clip_gradient)(const float* grad, const float* x, std::size_t n, float bottom, float top,
                        float* out);

  // out[i] = grad[i] where the bit of value i is set, else 0. `out` may be `grad` itself.
  void (*mask_gradient)(const float* grad, const std::uint16_t* inside, std::size_t n, float* out);
};

}  // namespace rsquant
