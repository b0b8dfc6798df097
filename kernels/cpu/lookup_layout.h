// How a convolution by tables lies in memory; see lookup.cpp.
#pragma once

#include <cstring>

#include "epilogue.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kMostTables = Lookup::kMostTables;  // of a step
constexpr int kTable = Lookup::kTableBytes;       // bytes
constexpr int kChannels = Lookup::kChannels;      // of a table
constexpr int kPairVectors = Lookup::kVectors;
constexpr int kSingleVectors = kPairVectors / 2;
constexpr int kBlock = kPairVectors * 2 * kLanes;  // output channels of a tile
constexpr int kVectorBytes = static_cast<int>(sizeof(Ints));

// Tables are those of all of the input, made once, up to this; else of strips.
constexpr std::int64_t kSharedBytes = 512 * 1024;

constexpr int least(int a, int b) { return a < b ? a : b; }
inline int parts(int n, int of) { return (n + of - 1) / of; }

// Most that a byte and a 16-bit sum without sign hold.
constexpr int kMostByte = 255, kMostSum = 65535;

// Tables of a step, and steps that one byte holds whatever the bits: where there are several, bytes
// become 16-bit sums but once for all of them.
struct Steps {
  int tables = 1, together = 1;

  constexpr explicit Steps(int input_limit) {
    const int most = kMostByte / (kChannels * input_limit);
    if (most < Lookup::kTables) return;  // not eligible
    if constexpr (kChannels == 6) {
      // From some number of tables on sums stay bytes for as many, in tiles of their own.
      const bool bytes = most >= Lookup::kFewestOfBytes;
      tables = bytes ? 1 : least(most, Lookup::kMostTables);
      together = bytes ? most : 1;
    } else {
      tables = Lookup::kTables;
      together = most / tables;
    }
  }
};

// Steps of a window that follow each other, and what is done then: byte sums are added to 16-bit
// ones, these to 32-bit ones, the next run begins.
struct Segment {
  std::int32_t steps, then;
};
enum Then : std::int32_t { kToWords = 1, kToWide = 2, kNextRun = 4, kEnd = 8 };

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
  Steps steps;
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
        steps(s.input_limit),
        run_steps(parts(run_tables, steps.tables)),
        blocks(parts(per_group, kBlock)) {}

  static bool whole_rows(const ConvShape& s) { return s.groups == 1 && s.dilation_w == 1; }

  // From the window's first table.
  std::int64_t run_offset(const ConvShape& s, int run) const {
    if (whole_rows(s)) return run * s.dilation_h * row;
    return run / s.kernel_w * s.dilation_h * row + run % s.kernel_w * s.dilation_w * pixel;
  }
  int run_places() const { return run_steps * steps.tables; }  // of tables and what fills steps up
  int tables() const { return runs * run_places(); }           // of a window
  bool shared() const { return rows * row <= kSharedBytes; }

  // Most that a part of a block has: one ends with each run, and one where a byte is full, which it
  // is not before it holds the steps of `together`.
  std::size_t segments() const {
    return static_cast<std::size_t>(runs) * (1 + parts(run_steps, steps.together)) + 1;
  }

  // Of a block of weights: how each pair and plane is summed, offsets, the p, segments of each
  // part, the indices.
  static std::size_t factor_bytes(const ConvShape& s) {
    return 64 + static_cast<std::size_t>(1 + s.weight_bits) * kBlock * 4;
  }
  std::size_t segment_bytes() const { return (segments() * sizeof(Segment) + 63) / 64 * 64; }
  std::size_t head_bytes(const ConvShape& s) const {
    return factor_bytes(s) + static_cast<std::size_t>(parts(s.weight_bits, 2)) * segment_bytes();
  }
  std::size_t block_bytes(const ConvShape& s) const {
    return head_bytes(s) +
           static_cast<std::size_t>(tables()) * s.weight_bits * kSingleVectors * kVectorBytes;
  }
};

// How a pair of planes, or one, is summed.
struct Sum {
  std::int32_t doubled;  // 1 where all p are even and halves of them are multiplied
  std::int32_t narrow;   // 1 where accumulators fit 16 bits: sums, modulo 2^16, hold any number
};

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
