// The windows of some output pixels of a convolution by tables, and the tiles they are summed in.
// See lookup.cpp.
#pragma once

#include "lookup_tables.h"
#include "lookup_tiles.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Most that the epilogue takes together: rows of 56, 28, 14 or 7 pixels fill it.
constexpr int kFinishPixels = 56;

// Where part i of `count` things begins, in parts of nearly one size.
inline int part_begin(int count, int parts, int i) {
  return static_cast<int>(std::int64_t{count} * i / parts);
}

// Output pixels that follow each other and read the same rows of taps.
struct Span {
  int from, count;
  Range taps;
};

// Windows of `count` output pixels from number `at` on.
struct Windows {
  int at, count;
  const std::uint8_t* first[kFinishPixels];  // tables, of the first tap of `span`
  std::int32_t sum[kFinishPixels];           // of the window's bytes
  int spans;
  Span span[kFinishPixels];
};

void find_windows(const ConvShape& s, const Layout& layout, const Tables& of, int group, int at,
                  int count, Windows& windows) {
  const std::uint8_t* tables = of.tables + std::int64_t{group} * layout.group * kTable;
  const std::int32_t* sums = of.sums + group;
  windows.at = at, windows.count = count, windows.spans = 0;
  if (layout.gather) {
    windows.span[windows.spans++] = {0, count, {0, 1}};
    const std::int64_t first = at - std::int64_t{of.first} * s.out_w;
    for (int p = 0; p < count; ++p) {
      windows.first[p] = tables + (first + p) * layout.pixel;
      windows.sum[p] = sums[(first + p) * s.groups];
    }
    return;
  }
  int y = at / s.out_w, x = at % s.out_w;
  Range taps = {};
  for (int p = 0; p < count; ++p) {
    if (p == 0 || x == 0) {
      taps = layout.taps(s, y);
      const Span* last = windows.span + windows.spans - 1;
      const bool same = p > 0 && last->taps.first == taps.first && last->taps.last == taps.last;
      if (!same) windows.span[windows.spans++] = {p, 0, taps};
    }
    ++windows.span[windows.spans - 1].count;
    const std::int64_t row = y * s.stride_h - s.pad_h + s.border - of.first;
    const std::int64_t column = x * s.stride_w - s.pad_w + s.border;
    windows.first[p] = tables + row * layout.row + column * layout.pixel +
                       layout.run_offset(s, taps.first * layout.row_runs(s));
    const std::int32_t* of_row = sums + (row * layout.columns + x) * s.groups;
    const std::int64_t next = std::int64_t{s.dilation_h} * layout.columns * s.groups;
    windows.sum[p] = 0;
    for (int ky = taps.first; ky < taps.last; ++ky) windows.sum[p] += of_row[ky * next];
    if (++x == s.out_w) x = 0, ++y;
  }
}

// The first segment of a run.
inline const Segment* first_segment(const Segment* segments, int run) {
  while (run > 0) run -= (segments++->then & kEndOfRun) != 0;
  return segments;
}

// Adds a part of a block to the accumulators of some pixels.
void add_part(const ConvShape& s, const Layout& layout, const Windows& windows, const Tiles& kind,
              const Part& of, std::int32_t* acc) {
  const bool ends = layout.ends_apart(s);
  int tile = 0;
  for (int i = 0; i < windows.spans; ++i) {
    const Span& span = windows.span[i];
    const int first_run = span.taps.first * layout.row_runs(s);
    Part part = of;
    part.index += static_cast<std::size_t>(first_run) * of.run_bytes;
    part.segments = first_segment(of.segments, first_run);
    part.runs = span.taps.last * layout.row_runs(s) - first_run;
    const auto add = [&](int pixels, int from, int tiles) {
      if (tiles == 0) return;
      const Pixels some = {windows.first + from, windows.sum + from, tile, tiles};
      const bool narrow = part.sum.narrow != 0;
      std::int32_t* to = acc + from * (narrow ? kPixelStride<true> : kPixelStride<false>);
      kind.add(pixels, narrow, ends)(s, layout, some, part, to);
      tile += tiles;
    };
    if (!ends) {
      // Tiles of nearly one size: `larger` of them have a pixel more than the others.
      part.first = part.last = {0, s.kernel_w};
      const int tiles = parts(span.count, kind.most);
      const int size = span.count / tiles, larger = span.count % tiles;
      add(size + 1, span.from, larger);
      add(size, span.from + larger * (size + 1), tiles - larger);
      continue;
    }
    // Of each row by itself.
    for (int from = span.from, end = from + span.count; from < end;) {
      const int x = (windows.at + from) % s.out_w, count = least(end - from, s.out_w - x);
      const int tiles = parts(count, kind.most);
      for (int t = 0; t < tiles; ++t) {
        const int begin = part_begin(count, tiles, t), next = part_begin(count, tiles, t + 1);
        part.first = Layout::taps_across(s, x + begin);
        part.last = Layout::taps_across(s, x + next - 1);
        add(next - begin, from + begin, 1);
      }
      from += count;
    }
  }
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
