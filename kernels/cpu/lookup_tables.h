// The tables of an input, see lookup.cpp.
#pragma once

#include "lookup_layout.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Tables of some rows, and the sums S by groups: of an output pixel's bytes in each of these rows,
// which all windows that meet the row share. Behind the tables lie those of a step: a run may end
// within one, and indices of 0 must meet a 0.
struct Tables {
  std::uint8_t* tables;
  std::int32_t* sums;
  int first;  // row
};

inline std::size_t room(const ConvShape& s, const Layout& layout, int rows) {
  return static_cast<std::size_t>(rows * layout.row) + kMostTables * kTable +
         static_cast<std::size_t>(rows) * layout.columns * s.groups * 4 + 64;
}

inline Tables tables_at(void* at, const Layout& layout, int first, int rows) {
  std::uint8_t* tables = static_cast<std::uint8_t*>(at);
  std::uint8_t* sums = tables + rows * layout.row + kMostTables * kTable;
  return {tables, reinterpret_cast<std::int32_t*>(sums), first};
}

// Of a group of a pixel. Bytes that follow its channels are in sums whose bits are never set.
template <class Lookup>
[[gnu::always_inline]] inline std::int32_t make_pixel(const std::uint8_t* bytes,
                                                      const Layout& layout,
                                                      const typename Lookup::Places& places,
                                                      std::uint8_t* out) {
  constexpr int kTogether = Lookup::kTogether;
  int t = 0;
  if constexpr (Lookup::kChannels == 6) {
    for (; (t + kTogether) * kChannels <= layout.channels; t += kTogether) {
      Lookup::make_tables(bytes + kChannels * t, kTogether * kChannels, places, out + t * kTable,
                          kTogether);
    }
    if (t < layout.group) {
      Lookup::make_tables(bytes + kChannels * t, layout.channels - kChannels * t, places,
                          out + t * kTable, layout.group - t);
    }
  } else {
    for (; t + kTogether <= layout.group; t += kTogether) {
      Lookup::make_tables(bytes + 4 * t, out + t * kTable);
    }
    if (t < layout.group) {
      std::uint8_t last[kTogether * kTable], some[16] = {};
      std::memcpy(some, bytes + 4 * t, static_cast<std::size_t>(layout.channels - 4 * t));
      Lookup::make_tables(some, last);
      std::memcpy(out + t * kTable, last, static_cast<std::size_t>(layout.group - t) * kTable);
    }
  }
  return Lookup::sum_bytes(bytes, layout.channels);
}

// The sums of a row's pixels to those of the taps of its output pixels. In place: an output pixel
// does not lie to the right of its first tap, counted from the border.
inline void add_taps(const ConvShape& s, std::int32_t* sums) {
  const int first = s.border - s.pad_w;
  for (int x = 0; x < s.out_w; ++x) {
    for (int group = 0; group < s.groups; ++group) {
      const std::int32_t* tap = sums + (x * s.stride_w + first) * s.groups + group;
      std::int32_t sum = 0;
      for (int kx = 0; kx < s.kernel_w; ++kx) sum += tap[kx * s.dilation_w * s.groups];
      sums[x * s.groups + group] = sum;
    }
  }
}

// The tables of some rows of a map that have any, into `to`.
void make_tables(const ConvShape& s, const Layout& layout, const std::uint8_t* input, Range of,
                 const Tables& to) {
  const Range rows = layout.made(s, of);
  std::memset(to.tables + (rows.last - to.first) * layout.row, 0, kMostTables * kTable);
  std::uint8_t* out = to.tables + (rows.first - to.first) * layout.row;
  std::int32_t* sums = to.sums + std::int64_t{rows.first - to.first} * layout.columns * s.groups;
  const std::int64_t across = s.pixel_bytes * (layout.gather ? s.stride_w : 1);
  const auto places = Lookup::places();
  for (int y = rows.first; y < rows.last; ++y) {
    const std::uint8_t* pixel = input + (layout.gather ? window_offset(s, y, 0) : y * row_bytes(s));
    for (int x = 0; x < layout.columns; ++x, pixel += across) {
      for (int group = 0; group < s.groups; ++group, out += layout.group * kTable) {
        *sums++ = make_pixel<Lookup>(pixel + group * layout.channels, layout, places, out);
      }
    }
    if (!layout.gather) add_taps(s, sums - std::int64_t{layout.columns} * s.groups);
  }
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
