// How a convolution by tables lies in memory; see lookup.cpp.
#pragma once

#include <cstring>

#include "epilogue.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kTables = Lookup::kTables;      // of a step
constexpr int kTable = Lookup::kTableBytes;   // bytes
constexpr int kChannels = Lookup::kChannels;  // of a table
constexpr int kPairVectors = Lookup::kVectors;
constexpr int kSingleVectors = kPairVectors / 2;
constexpr int kBlock = kPairVectors * 2 * kLanes;  // output channels of a tile
constexpr int kVectorBytes = static_cast<int>(sizeof(Ints));

// Tables are those of all of the input, made once, up to this; else of strips.
constexpr std::int64_t kSharedBytes = 512 * 1024;

inline int least(int a, int b) { return a < b ? a : b; }
inline int parts(int n, int of) { return (n + of - 1) / of; }

// How a convolution lies in tables. One of a single tap has those of its output pixels, in their
// order; else there are those of the input with its border.
struct Layout {
  bool gather;
  int channels;        // of a group
  int per_group;       // output channels of a group
  int group;           // tables of a group of a pixel
  std::int64_t pixel;  // bytes of a pixel's tables
  std::int64_t row;    // bytes from row to row
  int rows, columns;   // of pixels with tables
  int runs;            // taps whose tables follow each other
  int run_tables;
  int run_steps;
  int blocks;  // of a group

  explicit Layout(const ConvShape& s)
      : gather(s.kernel_h == 1 && s.kernel_w == 1),
        channels(s.in_channels / s.groups),
        per_group(s.out_channels / s.groups),
        group(parts(channels, kChannels)),
        pixel(std::int64_t{group} * s.groups * kTable),
        row(pixel * (gather ? s.out_w : s.in_w + 2 * s.border)),
        rows(gather ? s.out_h : s.in_h + 2 * s.border),
        columns(gather ? s.out_w : s.in_w + 2 * s.border),
        runs(whole_rows(s) ? s.kernel_h : s.kernel_h * s.kernel_w),
        run_tables(whole_rows(s) ? s.kernel_w * group : group),
        run_steps(parts(run_tables, kTables)),
        blocks(parts(per_group, kBlock)) {}

  static bool whole_rows(const ConvShape& s) { return s.groups == 1 && s.dilation_w == 1; }

  // From the window's first table.
  std::int64_t run_offset(const ConvShape& s, int run) const {
    if (whole_rows(s)) return run * s.dilation_h * row;
    return run / s.kernel_w * s.dilation_h * row + run % s.kernel_w * s.dilation_w * pixel;
  }
  int tables() const { return runs * run_steps * kTables; }  // of a window
  bool shared() const { return rows * row <= kSharedBytes; }

  // Of a block of weights: how each pair and plane is summed, offsets, the p, the indices.
  static std::size_t factor_bytes(const ConvShape& s) {
    return 64 + static_cast<std::size_t>(1 + s.weight_bits) * kBlock * 4;
  }
  std::size_t block_bytes(const ConvShape& s) const {
    return factor_bytes(s) +
           static_cast<std::size_t>(tables()) * s.weight_bits * kSingleVectors * kVectorBytes;
  }
};

// How a pair of planes, or one, is summed.
struct Sum {
  std::int32_t steps;     // that a 16-bit sum holds
  std::int32_t doubled;   // 1 where all p are even and halves of them are multiplied
  std::int32_t together;  // steps that a byte holds
  std::int32_t groups;    // of as many steps that a 16-bit sum holds
  std::int32_t narrow;    // 1 where accumulators fit 16 bits: sums, modulo 2^16, hold any number
};

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
