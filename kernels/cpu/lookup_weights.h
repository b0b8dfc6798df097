// Weights of a convolution by tables: the bits of four channels to an index; see lookup.cpp.
#pragma once

#include <algorithm>

#include "lookup_plan.h"
#include "planes.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Where the index of a plane's output channel lies in the vectors of a table.
inline int pair_byte(int output, int plane) {
  return output / (2 * kLanes) * kVectorBytes + Lookup::pair_place(output % (2 * kLanes), plane);
}
inline int single_byte(int output) {
  return output / (4 * kLanes) * kVectorBytes + Lookup::single_place(output % (4 * kLanes));
}

// The rows of bits that the bytes of a table's vectors come from, with what turns them. Of channels
// that do not exist any row: nothing is done with their sums.
struct Rows {
  const std::uint8_t* bits[kPairVectors * kVectorBytes];
  std::uint8_t turned[kPairVectors * kVectorBytes];  // 255 where p is negative
  std::int64_t length;                               // bytes of a row that may be read
};

// Where a window's table belongs: among all tables of a block.
inline int place_of(const Layout& layout, int table) {
  return table / layout.run_tables * layout.run_places() + table % layout.run_tables;
}

// Indices of `bytes` rows, any number of channels.
void place_bits(const ConvShape& s, const Layout& layout, const Rows& rows, int bytes,
                std::uint8_t* out) {
  const int taps = s.kernel_h * s.kernel_w;
  for (int i = 0; i < bytes; ++i) {
    for (int tap = 0; tap < taps; ++tap) {
      for (int t = 0; t < layout.group; ++t) {
        const int count = least(kChannels, layout.channels - kChannels * t);
        const std::int64_t at = std::int64_t{tap} * layout.channels + kChannels * t;
        const std::uint64_t some = bits_at(rows.bits[i], at, count);
        const int turned = rows.turned[i] & ((1 << count) - 1);
        out[std::int64_t{place_of(layout, tap * layout.group + t)} * bytes + i] =
            static_cast<std::uint8_t>(some ^ turned);
      }
    }
  }
}

// 16 vectors, each of a byte row per 16 bytes, to columns. Four times the same: of vectors 0 and 8,
// 1 and 9, .. the bytes in turn, so that each time a bit of the column's number becomes one of the
// row's.
inline void transpose(Ints (&rows)[16]) {
#pragma GCC unroll 4
  for (int round = 0; round < 4; ++round) {
    Ints next[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      next[2 * i] = Lookup::interleave_low(rows[i], rows[i + 8]);
      next[2 * i + 1] = Lookup::interleave_high(rows[i], rows[i + 8]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) rows[i] = next[i];
  }
}

// The same where a byte of a row is two tables of one tap: rows are turned into columns.
template <class Lookup>
void place_bytes(const ConvShape& s, const Layout& layout, const Rows& rows, int bytes,
                 std::uint8_t* out) {
  const int length = s.kernel_h * s.kernel_w * layout.channels / 8;
  const std::int64_t skip =
      std::int64_t{layout.run_places() - layout.run_tables} * bytes;  // behind a run
  for (int first = 0; first < bytes; first += kVectorBytes) {
    const std::uint8_t* const* bits = rows.bits + first;
    const Ints turned = load(rows.turned + first);
    std::uint8_t* to = out + first;
    int left = layout.run_tables;
    for (int at = 0; at < length; at += 16) {
      const int count = least(16, length - at);
      std::uint8_t last[kVectorBytes][16];
      const std::uint8_t* ends[kVectorBytes];
      if (count < 16) {
        for (int i = 0; i < kVectorBytes; ++i) {
          std::memcpy(last[i], bits[i] + at, static_cast<std::size_t>(count));
          ends[i] = last[i];
        }
      }
      const std::uint8_t* const* from = count < 16 ? ends : bits;
      Ints column[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) column[i] = Lookup::load_rows(from + i, count < 16 ? 0 : at);
      transpose(column);
      for (int j = 0; j < count; ++j, to += 2 * bytes) {
        store(to, Lookup::low_bits(Lookup::exclusive(column[j], turned)));
        store(to + bytes, Lookup::high_bits(Lookup::exclusive(column[j], turned)));
        if ((left -= 2) == 0) {
          left = layout.run_tables;
          to += skip;
        }
      }
    }
  }
}

// The same where a table has six channels: kRowBytes bytes of a tap are 16 tables.
template <class Lookup>
void place_taps(const ConvShape& s, const Layout& layout, const Rows& rows, int bytes,
                std::uint8_t* out) {
  const int taps = s.kernel_h * s.kernel_w, length = layout.channels / 8;
  const int left = layout.channels - (layout.group - 1) * kChannels;  // channels of the last table
  for (int first = 0; first < bytes; first += kVectorBytes) {
    const std::uint8_t* const* bits = rows.bits + first;
    const Ints turned = load(rows.turned + first);
    for (int tap = 0; tap < taps; ++tap) {
      std::uint8_t* to = out + std::int64_t{place_of(layout, tap * layout.group)} * bytes + first;
      int tables = layout.group;
      for (int at = 0; at < length; at += Lookup::kRowBytes, tables -= 16) {
        const std::int64_t begin = std::int64_t{tap} * length + at;
        Ints column[16];
        if (begin + 16 <= rows.length) {
#pragma GCC unroll 16
          for (int i = 0; i < 16; ++i) column[i] = Lookup::load_rows(bits + i, begin);
        } else {
          const int count = least(Lookup::kRowBytes, length - at);
#pragma GCC unroll 16
          for (int i = 0; i < 16; ++i) column[i] = Lookup::load_ends(bits + i, begin, count);
        }
        transpose(column);
#pragma GCC unroll 12
        for (int j = 0; j < Lookup::kRowBytes; ++j) {
          column[j] = Lookup::exclusive(column[j], turned);
        }
        Lookup::six_bits(column);
#pragma GCC unroll 16
        for (int j = 0; j < 16; ++j) {
          if (j >= tables) continue;
          store(to, column[j]);
          to += bytes;
        }
      }
      // Bits behind the last channel are none.
      if (left < kChannels) store(to - bytes, Lookup::first_bits(load(to - bytes), left));
    }
  }
}

template <class Lookup>
void place_whole(const ConvShape& s, const Layout& layout, const Rows& rows, int bytes,
                 std::uint8_t* out) {
  if constexpr (Lookup::kChannels == 6) {
    place_taps<Lookup>(s, layout, rows, bytes, out);
  } else {
    place_bytes<Lookup>(s, layout, rows, bytes, out);
  }
}

// Numbers of a block in place: to 16 bits, in the order of sums.
inline void to_words(std::uint8_t* numbers) {
  std::int32_t whole[kBlock];
  std::int16_t words[kBlock];
  std::memcpy(whole, numbers, sizeof whole);
  for (int o = 0; o < kBlock; ++o) {
    const int vector = o / (2 * kLanes) * (2 * kLanes);
    words[vector + Lookup::word_place(o - vector)] = static_cast<std::int16_t>(whole[o]);
  }
  std::memcpy(numbers, words, sizeof words);
}

// Whether every accumulator of one or two planes fits 16 bits: of inputs from 0 to the limit the
// largest is the limit times the sum of the positive levels, the smallest that of the negative.
bool fits_words(const ConvShape& s, const ConvWeights& w, int first, int count) {
  if (s.weight_bits > 2) return false;
  const bool pair = s.weight_bits == 2;
  const int taps = s.kernel_h * s.kernel_w * (s.in_channels / s.groups);
  const int words = taps / 64, rest = taps % 64;
  for (int o = first; o < first + count; ++o) {
    const std::uint8_t* row = w.planes + o * w.plane_bytes;
    const std::uint8_t* other = pair ? row + s.out_channels * w.plane_bytes : row;
    std::int64_t ones = 0, others = 0, both = 0;  // bits that are set
    const auto add = [&](std::uint64_t a, std::uint64_t b) {
      ones += __builtin_popcountll(a);
      others += __builtin_popcountll(b);
      both += __builtin_popcountll(a & b);
    };
    for (int i = 0; i < words; ++i) add(word_at(row, i), word_at(other, i));
    if (rest > 0) add(bits_at(row, 64 * words, rest), bits_at(other, 64 * words, rest));
    if (!pair) others = both = 0;
    const int p = w.basis[o * s.weight_bits], q = pair ? w.basis[o * 2 + 1] : 0;
    const int level[4] = {w.offset[o], w.offset[o] + p, w.offset[o] + q, w.offset[o] + p + q};
    const std::int64_t times[4] = {taps - ones - others + both, ones - both, others - both, both};
    std::int64_t smallest = 0, largest = 0;
    for (int i = 0; i < 4; ++i) {
      (level[i] < 0 ? smallest : largest) += times[i] * level[i] * s.input_limit;
    }
    if (smallest < -32768 || largest > 32767) return false;
  }
  return true;
}

// Asks the caches for the planes of some output channels. They are read across, 16 bytes of each of
// 64 rows at a time: too many places for a processor to foresee.
inline void ask_for(const ConvShape& s, const ConvWeights& w, int first, int count) {
  for (int k = 0; k < s.weight_bits; ++k) {
    const std::uint8_t* from =
        w.planes + (std::int64_t{k} * s.out_channels + first) * w.plane_bytes;
    for (std::int64_t i = 0; i < count * w.plane_bytes; i += 64) {
      __builtin_prefetch(from + i, 0, 2);
    }
  }
}

// With `planned` widening: of weights that are kept.
void prepare_block(const ConvShape& s, const ConvWeights& w, int block, bool planned, void* out) {
  const Layout layout(s);
  const int first = block % layout.blocks * kBlock;
  const int exist = least(layout.per_group - first, kBlock);
  const int channel = block / layout.blocks * layout.per_group + first;
  const bool half = is_half(exist);
  const bool whole = layout.channels % 8 == 0;
  const bool full = whole && layout.run_places() == layout.run_tables;
  std::memset(out, 0, full ? layout.head_bytes(s) : layout.block_bytes(s));
  Sum* sum = static_cast<Sum*>(out);
  std::uint8_t* factors = static_cast<std::uint8_t*>(out) + 64;
  std::int32_t* offset = reinterpret_cast<std::int32_t*>(factors);
  factors += kBlock * 4;
  std::uint8_t* segments = static_cast<std::uint8_t*>(out) + Layout::factor_bytes(s);
  std::uint8_t* to = static_cast<std::uint8_t*>(out) + layout.head_bytes(s);
  const auto basis = [&](int o, int k) { return w.basis[(channel + o) * s.weight_bits + k]; };
  for (int o = 0; o < exist; ++o) offset[o] = w.offset[channel + o];
  if (!planned) ask_for(s, w, channel, exist);
  const bool narrow = fits_words(s, w, channel, exist);
  for (int k = 0; k < s.weight_bits; k += 2, ++sum) {
    const int planes = k + 1 < s.weight_bits ? 2 : 1;
    const int bytes = index_bytes(planes == 2, half);
    Rows rows = {};
    std::fill_n(rows.bits, bytes, w.planes);
    rows.length = w.plane_bytes;
    int odd = 0, largest = 1;
    for (int o = 0; o < exist; ++o) {
      int together = 0;
      for (int plane = 0; plane < planes; ++plane) {
        const int p = basis(o, k + plane), size = p < 0 ? -p : p;
        const int i = planes == 2 ? pair_byte(o, plane) : single_byte(o);
        rows.bits[i] =
            w.planes + (std::int64_t{k + plane} * s.out_channels + channel + o) * w.plane_bytes;
        rows.turned[i] = p < 0 ? 255 : 0;
        if (p < 0) offset[o] += p;
        odd |= size & 1;
        together += size;
        if (planes == 2) {
          factors[i] = static_cast<std::uint8_t>(size);
        } else {
          std::memcpy(factors + 4 * o, &size, 4);
        }
      }
      if (together > largest) largest = together;
    }
    sum->narrow = narrow;
    if (planes == 1) {
      largest = 1;
    } else {
      sum->doubled = odd == 0 && !narrow;
      if (sum->doubled != 0) {
        largest = largest < 2 ? 1 : largest / 2;
        for (int i = 0; i < bytes; ++i) factors[i] = factors[i] / 2;
      }
    }
    if (whole) {
      place_whole<Lookup>(s, layout, rows, bytes, to);
    } else {
      place_bits(s, layout, rows, bytes, to);
    }
    Segment* plan = reinterpret_cast<Segment*>(segments);
    if (!planned) {
      write_plan(FullSums(s, layout, largest), layout, narrow, plan);
    } else if (planes == 2) {
      if (half) {
        write_plan(IndexSums<kHalfPair, true>(s, layout, to, factors), layout, narrow, plan);
      } else {
        write_plan(IndexSums<kPairVectors, true>(s, layout, to, factors), layout, narrow, plan);
      }
    } else if (half) {
      write_plan(IndexSums<kHalfSingle, false>(s, layout, to, factors), layout, narrow, plan);
    } else {
      write_plan(IndexSums<kSingleVectors, false>(s, layout, to, factors), layout, narrow, plan);
    }
    segments += layout.segment_bytes();
    if (narrow && planes == 1) to_words(factors);
    factors += planes * kBlock * 4;
    to += static_cast<std::size_t>(layout.tables()) * static_cast<std::size_t>(bytes);
  }
  if (narrow) to_words(static_cast<std::uint8_t*>(out) + 64);
}

std::size_t weight_bytes(const ConvShape& s) {
  const Layout layout(s);
  return layout.block_bytes(s) * layout.blocks * s.groups;
}

void prepare(const ConvShape& s, const ConvWeights& w, void* out) {
  const Layout layout(s);
  for (int block = 0; block < layout.blocks * s.groups; ++block) {
    prepare_block(s, w, block, true,
                  static_cast<std::uint8_t*>(out) + block * layout.block_bytes(s));
  }
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
