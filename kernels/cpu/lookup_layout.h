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
// Vectors of a block of which no more than the first half exists.
constexpr int kHalfPair = kPairVectors / 2;
constexpr int kHalfSingle = kSingleVectors > 1 ? kSingleVectors / 2 : 1;

inline bool is_half(int channels) { return channels <= kBlock / 2; }

// Bytes of the indices of a table: of a pair of planes or one, of a block or half of one.
inline int index_bytes(bool pair, bool half) {
  const int vectors =
      pair ? (half ? kHalfPair : kPairVectors) : (half ? kHalfSingle : kSingleVectors);
  return vectors * kVectorBytes;
}

// Tables are those of all of the input up to this, else of strips.
constexpr std::int64_t kMapBytes = 512 * 1024;

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
// ones, these to 32-bit ones, the run ends.
struct Segment {
  std::int32_t steps, then;
};
enum Then : std::int32_t { kToWords = 1, kToWide = 2, kEndOfTap = 4, kEndOfRun = 8 };

// Of taps, or of rows of an input: [first, last).
struct Range {
  int first, last;
};

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
  bool inside;         // the border is of zeros: there are tables of the rows of the input alone
  int runs;            // taps whose tables follow each other
  int run_tables;
  Steps steps;
  int run_steps;
  int blocks;       // of a group
  bool taps_apart;  // segments end with each tap: see `ends_apart`

  explicit Layout(const ConvShape& s)
      : gather(s.kernel_h == 1 && s.kernel_w == 1),
        channels(s.in_channels / s.groups),
        per_group(s.out_channels / s.groups),
        group(parts(channels, kChannels)),
        pixel(std::int64_t{group} * s.groups * kTable),
        row(pixel * (gather ? s.out_w : s.in_w + 2 * s.border)),
        rows(gather ? s.out_h : s.in_h + 2 * s.border),
        columns(gather ? s.out_w : s.in_w + 2 * s.border),
        inside(!gather && s.fill == 0 && some_inside(s)),
        runs(whole_rows(s) ? s.kernel_h : s.kernel_h * s.kernel_w),
        run_tables(whole_rows(s) ? s.kernel_w * group : group),
        steps(s.input_limit),
        run_steps(parts(run_tables, steps.tables)),
        blocks(parts(per_group, kBlock)),
        taps_apart(Lookup::kShortRow > 0 && steps.together > 1 &&
                   (!whole_rows(s) || group % steps.tables == 0)) {}

  static bool whole_rows(const ConvShape& s) { return s.groups == 1 && s.dilation_w == 1; }

  // Whether some row of taps lies in the input in every window.
  static bool some_inside(const ConvShape& s) {
    const int row = parts(s.pad_h, s.dilation_h);  // the first that never lies above
    return row < s.kernel_h && (s.out_h - 1) * s.stride_h - s.pad_h + row * s.dilation_h < s.in_h;
  }

  // Rows of taps of the windows of an output row that have tables.
  Range taps(const ConvShape& s, int y) const {
    Range found = {0, s.kernel_h};
    if (!inside) return found;
    const int top = y * s.stride_h - s.pad_h;
    if (top < 0) found.first = parts(-top, s.dilation_h);
    while (top + (found.last - 1) * s.dilation_h >= s.in_h) --found.last;
    return found;
  }
  int row_runs(const ConvShape& s) const { return runs / s.kernel_h; }

  // Whether rows of output are cut into tiles of their own, whose first and last pixels leave out
  // taps of zeros. In long rows that saves less than the tiles cost, which are smaller; nor does it
  // pay where bytes become 16-bit sums at each step, or with fewer registers (AVX2), since their
  // loops have branches then.
  bool ends_apart(const ConvShape& s) const {
    return taps_apart && s.fill == 0 && s.pad_w > 0 && s.out_w <= Lookup::kShortRow;
  }

  // Taps of each row that lie in the input, of the windows of an output column.
  static Range taps_across(const ConvShape& s, int x) {
    Range found = {0, s.kernel_w};
    const int left = x * s.stride_w - s.pad_w;
    if (left < 0) found.first = parts(-left, s.dilation_w);
    while (found.last > 0 && left + (found.last - 1) * s.dilation_w >= s.in_w) --found.last;
    return found;
  }

  // Which of some rows have tables.
  Range made(const ConvShape& s, Range of) const {
    if (!inside) return of;
    return {of.first < s.border ? s.border : of.first, least(of.last, s.border + s.in_h)};
  }

  // From the window's first table.
  std::int64_t run_offset(const ConvShape& s, int run) const {
    if (whole_rows(s)) return run * s.dilation_h * row;
    return run / s.kernel_w * s.dilation_h * row + run % s.kernel_w * s.dilation_w * pixel;
  }
  int tap_steps() const { return parts(group, steps.tables); }
  int run_places() const { return run_steps * steps.tables; }  // of tables and what fills steps up
  int tables() const { return runs * run_places(); }           // of a window

  // Whether each thread makes the tables of the whole map and takes blocks of output channels; else
  // it makes those of strips, and takes all blocks. The tables of a pixel take about as long as the
  // look-ups that a block does with one tap: with one tap, and weights that need no unpacking by
  // each thread, strips pay where the rows of the map go round.
  bool whole_map(const ConvShape& s, bool prepared) const {
    if (rows * row > kMapBytes) return false;
    if (!gather || !prepared || s.threads < 2) return true;
    const int most_rows = parts(s.out_h, s.threads);
    return s.out_h * (s.threads + s.groups * blocks) <=
           most_rows * s.threads * (1 + s.groups * blocks);
  }

  // Most that a part of a block has: one ends with each run, and one where a byte is full, which it
  // is not before it holds the steps of `together`.
  std::size_t segments() const {
    const int taps = taps_apart ? parts(run_tables, group) : 1;
    return static_cast<std::size_t>(runs) * (taps + parts(run_steps, steps.together)) + 1;
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
    const bool half = is_half(per_group);
    const int bytes =
        s.weight_bits / 2 * index_bytes(true, half) + s.weight_bits % 2 * index_bytes(false, half);
    return head_bytes(s) + static_cast<std::size_t>(tables()) * static_cast<std::size_t>(bytes);
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
