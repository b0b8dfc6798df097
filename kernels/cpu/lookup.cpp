// Convolution by tables: the sums that four input bytes can make, looked up by four weight bits.
//
// A weight level is offset + sum_k p_k b_k, b in {0, 1}. Over the positions of a window
//
//   acc = sum_k p_k (sum of the bytes whose bit b_k is set)  +  offset S      S: sum of all bytes.
//
// For four channels a0 .. a3 of a pixel the inner sum has 16 possible values:
//
//   table[m] = (m & 1) a0 + (m & 2) / 2 a1 + (m & 4) / 4 a2 + (m & 8) / 8 a3
//
// 16 bytes, made once per pixel. They serve every tap that meets the pixel and every output
// channel: one instruction takes table[m] for as many m as a vector has bytes.
//
//      table of pixel p, channels c .. c + 3          broadcast to each 16 bytes of a vector
//     ┌────┬────┬────┬─────────┬───┬───────────┐
//     │ 0  │ a0 │ a1 │ a0 + a1 │...│ a0 + .. a3 │
//     └────┴────┴────┴─────────┴───┴───────────┘
//        ▲ one byte of 4 bits for each output channel and plane
//     ┌───────┬───────┬───────┬───────┬───
//     │ o0 b0 │ o0 b1 │ o8 b0 │ o8 b1 │ o1 b0 ...     index vector, `Lookup::pair_place`
//     └───────┴───────┴───────┴───────┴───
//
// Of two planes. A step takes four tables (16 channels):
//
//   bytes <- table_0[m_0] + table_1[m_1] + table_2[m_2] + table_3[m_3]     4 look-ups, 3 additions
//   sum   <- sum + p_0 bytes_0 + p_1 bytes_1                               VPMADDUBSW, VPADDW
//
// A byte holds 16 * limit <= 255, limit being the input's: up to 15. A negative p has its bits
// turned and its value moved to the offset, so that every p is positive and a sum of 16 bits is
// one without sign. The p of a pair add up to the distance of two levels at most, twice the limit
// of the weights, and a step adds at most u = 16 * limit * 2 * weight_limit:
//
//   p <= 127, u <= 32,767     VPMADDUBSW takes signed bytes, and does not saturate
//   floor(65,535 / u) steps   before the sums are added to 32-bit ones: 9 with levels of 15 and 14
//
// Symmetric levels have even p. Their halves are multiplied and the 32-bit sums doubled: 19 steps.
//
// Of one plane (1-bit weights, and the third plane of 3-bit weights) a vector has 4 kLanes outputs,
// p is multiplied after the widening, and a sum holds floor(65,535 / (16 limit)) steps.
//
// So three planes are a pair and a single one, four are two pairs: time is linear in the bits of
// the weights and does not depend on those of the input.
//
// Tables take four times the input's bytes. Those of a small map are made once for all tasks; of a
// large one each task makes those of a strip of output rows, and goes through all output channels.

#include "simd.h"

#if defined(RSQUANT_LOOKUP)

#include <cstring>

#include "epilogue.h"
#include "planes.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kTables = 4;  // of a step
constexpr int kTable = 16;  // bytes
constexpr int kPairVectors = Lookup::kVectors;
constexpr int kSingleVectors = kPairVectors / 2;
constexpr int kBlock = kPairVectors * 2 * kLanes;  // output channels of a tile
constexpr int kVectorBytes = static_cast<int>(sizeof(Ints));

// Tables are those of all of the input, made once, up to this; else of strips.
constexpr std::int64_t kSharedBytes = 512 * 1024;
constexpr std::int64_t kStripBytes = 192 * 1024;
constexpr std::int64_t kLowMemoryStripBytes = 512 * 1024;  // each prepares all weights

constexpr int kFinishPixels = 48;  // that the epilogue takes together
constexpr int kTaskPixels = 2 * kFinishPixels;

// Fewest channels of a group whose tables and vectors are not mostly empty.
constexpr int kFewestChannels = 16;

inline int least(int a, int b) { return a < b ? a : b; }
inline int parts(int n, int of) { return (n + of - 1) / of; }

constexpr int kMostSum = 65535;
bool eligible(const ConvShape& s) {
  if (s.weight_bits == 0) return false;
  const int bytes = 4 * kTables * s.input_limit;
  if (bytes > 255 || 2 * s.weight_limit > 127 || bytes * 2 * s.weight_limit > 32767) return false;
  return s.groups == 1 || (s.in_channels / s.groups >= kFewestChannels &&
                           s.out_channels / s.groups >= kFewestChannels);
}

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
        group((channels + 3) / 4),
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

// --- Weights ---

// Where the index of a plane's output channel lies in the vectors of a table.
inline int pair_byte(int output, int plane) {
  return output / (2 * kLanes) * kVectorBytes + Lookup::pair_place(output % (2 * kLanes), plane);
}
inline int single_byte(int output) {
  return output / (4 * kLanes) * kVectorBytes + Lookup::single_place(output % (4 * kLanes));
}

// The rows of bits that the bytes of a table's vectors come from, with what turns them.
struct Rows {
  const std::uint8_t* bits[kPairVectors * kVectorBytes];  // null: no such channel
  std::uint8_t turned[kPairVectors * kVectorBytes];       // 255 where p is negative
};

// Where a window's table belongs: among all tables of a block.
inline int place_of(const Layout& layout, int table) {
  return table / layout.run_tables * layout.run_steps * kTables + table % layout.run_tables;
}

// Indices of `bytes` rows, any number of channels.
void place_bits(const ConvShape& s, const Layout& layout, const Rows& rows, int bytes,
                std::uint8_t* out) {
  const int taps = s.kernel_h * s.kernel_w;
  for (int i = 0; i < bytes; ++i) {
    if (rows.bits[i] == nullptr) continue;
    for (int tap = 0; tap < taps; ++tap) {
      for (int t = 0; t < layout.group; ++t) {
        const int count = least(4, layout.channels - 4 * t);
        const std::int64_t at = std::int64_t{tap} * layout.channels + 4 * t;
        const std::uint64_t four = bits_at(rows.bits[i], at, count);
        const int turned = rows.turned[i] & ((1 << count) - 1);
        out[std::int64_t{place_of(layout, tap * layout.group + t)} * bytes + i] =
            static_cast<std::uint8_t>(four ^ turned);
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
void place_bytes(const ConvShape& s, const Layout& layout, const Rows& rows, int bytes,
                 std::uint8_t* out) {
  const int length = s.kernel_h * s.kernel_w * layout.channels / 8;
  const std::int64_t skip =
      std::int64_t{layout.run_steps * kTables - layout.run_tables} * bytes;  // behind a run
  alignas(64) static const std::uint8_t none[16] = {};
  for (int first = 0; first < bytes; first += kVectorBytes) {
    const std::uint8_t* bits[kVectorBytes];
    for (int i = 0; i < kVectorBytes; ++i) bits[i] = rows.bits[first + i];
    const Ints turned = load(rows.turned + first);
    std::uint8_t* to = out + first;
    int left = layout.run_tables;
    for (int at = 0; at < length; at += 16) {
      const int count = least(16, length - at);
      std::uint8_t last[kVectorBytes][16];
      const std::uint8_t* from[kVectorBytes];
      for (int i = 0; i < kVectorBytes; ++i) {
        from[i] = bits[i] == nullptr ? none : bits[i] + at;
        if (count < 16 && bits[i] != nullptr) {
          std::memcpy(last[i], from[i], static_cast<std::size_t>(count));
          from[i] = last[i];
        }
      }
      Ints column[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) column[i] = Lookup::load_rows(from + i);
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

// How a pair of planes, or one, is summed.
struct Sum {
  std::int32_t steps;    // that a 16-bit sum holds
  std::int32_t doubled;  // 1 where all p are even and halves of them are multiplied
};

void prepare_block(const ConvShape& s, const ConvWeights& w, int block, void* out) {
  const Layout layout(s);
  const int first = block % layout.blocks * kBlock;
  const int exist = least(layout.per_group - first, kBlock);
  const int channel = block / layout.blocks * layout.per_group + first;
  const bool whole = layout.channels % 8 == 0;
  const bool full = whole && layout.run_tables % kTables == 0;
  std::memset(out, 0, full ? Layout::factor_bytes(s) : layout.block_bytes(s));
  Sum* sum = static_cast<Sum*>(out);
  std::uint8_t* factors = static_cast<std::uint8_t*>(out) + 64;
  std::int32_t* offset = reinterpret_cast<std::int32_t*>(factors);
  factors += kBlock * 4;
  std::uint8_t* to = static_cast<std::uint8_t*>(out) + Layout::factor_bytes(s);
  const auto basis = [&](int o, int k) { return w.basis[(channel + o) * s.weight_bits + k]; };
  for (int o = 0; o < exist; ++o) offset[o] = w.offset[channel + o];
  for (int k = 0; k < s.weight_bits; k += 2, ++sum) {
    const int planes = k + 1 < s.weight_bits ? 2 : 1;
    const int bytes = (planes == 2 ? kPairVectors : kSingleVectors) * kVectorBytes;
    Rows rows = {};
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
    const int step = 4 * kTables * s.input_limit;
    sum->steps = kMostSum / step;
    if (planes == 2) {
      sum->doubled = odd == 0;
      if (odd == 0) {
        largest = largest < 2 ? 1 : largest / 2;
        for (int i = 0; i < bytes; ++i) factors[i] = factors[i] / 2;
      }
      sum->steps = kMostSum / (step * largest);
    }
    if (whole) {
      place_bytes(s, layout, rows, bytes, to);
    } else {
      place_bits(s, layout, rows, bytes, to);
    }
    factors += planes * kBlock * 4;
    to += static_cast<std::size_t>(layout.tables()) * static_cast<std::size_t>(bytes);
  }
}

std::size_t weight_bytes(const ConvShape& s) {
  const Layout layout(s);
  return layout.block_bytes(s) * layout.blocks * s.groups;
}

void prepare(const ConvShape& s, const ConvWeights& w, void* out) {
  const Layout layout(s);
  for (int block = 0; block < layout.blocks * s.groups; ++block) {
    prepare_block(s, w, block, static_cast<std::uint8_t*>(out) + block * layout.block_bytes(s));
  }
}

// --- Tables ---

// Tables of some rows, and the sum of each pixel's bytes, by groups. Behind the tables lie those of
// a step: a run may end within one, and indices of 0 must meet a 0.
struct Tables {
  std::uint8_t* tables;
  std::int32_t* sums;
  int first;  // row
};

inline std::size_t room(const ConvShape& s, const Layout& layout, int rows) {
  return static_cast<std::size_t>(rows * layout.row) + kTables * kTable +
         static_cast<std::size_t>(rows) * layout.columns * s.groups * 4 + 64;
}

inline Tables tables_at(void* at, const Layout& layout, int first, int rows) {
  std::uint8_t* tables = static_cast<std::uint8_t*>(at);
  std::uint8_t* sums = tables + rows * layout.row + kTables * kTable;
  return {tables, reinterpret_cast<std::int32_t*>(sums), first};
}

// Of a group of a pixel. Bytes that follow its channels are in sums whose bits are never set.
inline std::int32_t make_pixel(const std::uint8_t* bytes, const Layout& layout, std::uint8_t* out) {
  int t = 0;
  for (; t + 4 <= layout.group; t += 4) Lookup::make_tables(bytes + 4 * t, out + t * kTable);
  if (t < layout.group) {
    std::uint8_t last[4 * kTable], some[16] = {};
    std::memcpy(some, bytes + 4 * t, static_cast<std::size_t>(layout.channels - 4 * t));
    Lookup::make_tables(some, last);
    std::memcpy(out + t * kTable, last, static_cast<std::size_t>(layout.group - t) * kTable);
  }
  return Lookup::sum_bytes(bytes, layout.channels);
}

// Rows [begin, end) of a map's tables, into `to`.
void make_tables(const ConvShape& s, const Layout& layout, const std::uint8_t* input, int begin,
                 int end, const Tables& to) {
  std::uint8_t* out = to.tables + (begin - to.first) * layout.row;
  std::int32_t* sums = to.sums + std::int64_t{begin - to.first} * layout.columns * s.groups;
  const std::int64_t across = s.pixel_bytes * (layout.gather ? s.stride_w : 1);
  for (int y = begin; y < end; ++y) {
    const std::uint8_t* pixel = input + (layout.gather ? window_offset(s, y, 0) : y * row_bytes(s));
    for (int x = 0; x < layout.columns; ++x, pixel += across) {
      for (int group = 0; group < s.groups; ++group, out += layout.group * kTable) {
        *sums++ = make_pixel(pixel + group * layout.channels, layout, out);
      }
    }
  }
}

std::size_t input_bytes(const ConvShape& s) {
  const Layout layout(s);
  return layout.shared() ? room(s, layout, layout.rows) : 0;
}

int input_tasks(const ConvShape& s) {
  const Layout layout(s);
  return layout.shared() ? layout.rows : 0;
}

void transform_input(const ConvShape& s, const std::uint8_t* input, void* out, int row) {
  const Layout layout(s);
  const Tables to = tables_at(out, layout, 0, layout.rows);
  if (row == 0) std::memset(to.tables + layout.rows * layout.row, 0, kTables * kTable);
  make_tables(s, layout, input, row, row + 1, to);
}

// --- The loops ---

// Pixels of a tile: as many as there are registers for, and so twice as many for a block of which
// no more than the first half exists.
constexpr int kPairPixels = Lookup::kPairPixels, kSinglePixels = Lookup::kSinglePixels;
constexpr int kHalfPair = kPairVectors / 2, kHalfPairPixels = 2 * kPairPixels;
constexpr int kHalfSingle = kSingleVectors > 1 ? kSingleVectors / 2 : 1;
constexpr int kHalfSinglePixels = kSingleVectors / kHalfSingle * kSinglePixels;
constexpr int kMostTile = kHalfPairPixels > kHalfSinglePixels ? kHalfPairPixels : kHalfSinglePixels;

// Output pixels of a tile: where their windows begin, and S.
struct Pixels {
  const std::uint8_t* window[kMostTile];
  std::int32_t sum[kMostTile];
};

// What is added to the accumulators of a block: a pair of planes, or one.
struct Part {
  const std::uint8_t* factors;
  const std::uint8_t* index;
  Sum sum;
  const std::int32_t* offset;  // of the first part, which stores instead of adding; else null
};

// Calls step(first tables of each pixel, offset) for each step of a window, and widen() whenever
// `most` of them are done and others follow.
template <int P, class Step, class Widen>
[[gnu::always_inline]] inline void over_window(const ConvShape& s, const Layout& layout,
                                               const Pixels& pixels, int most, const Step& step,
                                               const Widen& widen) {
  int left = most;
  for (int run = 0; run < layout.runs; ++run) {
    const std::int64_t offset = layout.run_offset(s, run);
    const std::uint8_t* at[P];
    for (int p = 0; p < P; ++p) at[p] = pixels.window[p] + offset;
    for (int done = 0; done < layout.run_steps;) {
      if (left == 0) {
        widen();
        left = most;
      }
      const int count = least(left, layout.run_steps - done);
      const std::int64_t first = std::int64_t{done} * (kTables * kTable);
      const std::int64_t end = first + std::int64_t{count} * (kTables * kTable);
      for (std::int64_t i = first; i < end; i += kTables * kTable) step(at, i);
      done += count;
      left -= count;
    }
  }
}

// Byte sums of a step, of the first V of `vectors` vectors of indices.
template <int P, int V>
[[gnu::always_inline]] inline void look_up(const std::uint8_t* const (&at)[P], std::int64_t offset,
                                           const std::uint8_t*& index, int vectors,
                                           Ints (&bytes)[P][V]) {
#pragma GCC unroll 4
  for (int t = 0; t < kTables; ++t) {
    Ints m[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) m[v] = load(index + v * kVectorBytes);
    index += vectors * kVectorBytes;
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      const Ints table = Lookup::table(at[p] + offset + t * kTable);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Ints some = Lookup::pick(table, m[v]);
        bytes[p][v] = t == 0 ? some : Lookup::add_bytes(bytes[p][v], some);
      }
    }
  }
}

// Adds a pair of planes to the accumulators of P pixels and the first V vectors of output channels
// of a block. Not inlined: the loop needs every register.
template <int P, int V>
[[gnu::noinline]] void add_pair(const ConvShape& s, const Layout& layout, const Pixels& pixels,
                                const Part& part, std::int32_t* acc) {
  Ints sum[P][V];
  alignas(64) std::int32_t wide[P * kBlock];  // of sums that were full
  bool empty = true;
  const auto clear = [&] {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[p][v] = Ints{};
    }
  };
  clear();
  const std::uint8_t *index = part.index, *factors = part.factors;
  over_window<P>(
      s, layout, pixels, part.sum.steps,
      [&](const std::uint8_t* const(&at)[P], std::int64_t offset) [[gnu::always_inline]] {
        Ints bytes[P][V];
        look_up<P, V>(at, offset, index, kPairVectors, bytes);
        asm("" : "+r"(factors));  // or their vectors would stay in registers that sums need
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const Ints factor = load(factors + v * kVectorBytes);
#pragma GCC unroll 16
          for (int p = 0; p < P; ++p) sum[p][v] = Lookup::weigh(sum[p][v], bytes[p][v], factor);
        }
      },
      [&] {
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) {
            std::int32_t* to = wide + p * kBlock + v * 2 * kLanes;
            Ints low = Lookup::first_words(sum[p][v]), high = Lookup::last_words(sum[p][v]);
            if (!empty) low = add(low, load(to)), high = add(high, load(to + kLanes));
            store(to, low);
            store(to + kLanes, high);
          }
        }
        empty = false;
        clear();
      });
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const int at = v * 2 * kLanes;
      Ints words[2] = {Lookup::first_words(sum[p][v]), Lookup::last_words(sum[p][v])};
      for (int half = 0; half < 2; ++half) {
        const int c = at + half * kLanes;
        std::int32_t* to = acc + p * kBlock + c;
        Ints all = words[half];
        if (!empty) all = add(all, load(wide + p * kBlock + c));
        if (part.sum.doubled != 0) all = add(all, all);
        const Ints before = part.offset == nullptr ? load(to)
                                                   : Lookup::multiply32(load(part.offset + c),
                                                                        broadcast(pixels.sum[p]));
        store(to, add(before, all));
      }
    }
  }
}

// The same of a single plane.
template <int P, int V>
[[gnu::noinline]] void add_single(const ConvShape& s, const Layout& layout, const Pixels& pixels,
                                  const Part& part, std::int32_t* acc) {
  if (part.offset != nullptr) {
    for (int p = 0; p < P; ++p) {
      const Ints all = broadcast(pixels.sum[p]);
      for (int c = 0; c < kBlock; c += kLanes) {
        store(acc + p * kBlock + c, Lookup::multiply32(load(part.offset + c), all));
      }
    }
  }
  Lookup::Single sum[P][V];
  const auto clear = [&] {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[p][v] = Lookup::Single{};
    }
  };
  const auto widen = [&] {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        Lookup::add_single(acc + p * kBlock + v * 4 * kLanes, sum[p][v],
                           part.factors + v * 4 * kVectorBytes);
      }
    }
    clear();
  };
  clear();
  const std::uint8_t* index = part.index;
  over_window<P>(
      s, layout, pixels, part.sum.steps,
      [&](const std::uint8_t* const(&at)[P], std::int64_t offset) [[gnu::always_inline]] {
        Ints bytes[P][V];
        look_up<P, V>(at, offset, index, kSingleVectors, bytes);
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sum[p][v] = Lookup::count(sum[p][v], bytes[p][v]);
        }
      },
      widen);
  widen();
}

typedef void (*Add)(const ConvShape&, const Layout&, const Pixels&, const Part&, std::int32_t*);

template <int P, int V>
inline Add pair_of(int count) {
  if constexpr (P > 1) {
    if (count < P) return pair_of<P - 1, V>(count);
  }
  return add_pair<P, V>;
}

template <int P, int V>
inline Add single_of(int count) {
  if constexpr (P > 1) {
    if (count < P) return single_of<P - 1, V>(count);
  }
  return add_single<P, V>;
}

// --- The kernel ---

// What a task works on.
struct Work {
  const ConvRun& run;
  Layout layout;
  Tables tables;
};

// Windows of `count` output pixels from number `at` on, and the sums of their bytes.
void find_windows(const Work& work, int group, int at, int count, const std::uint8_t** window,
                  std::int32_t* sum) {
  const ConvShape& s = work.run.shape;
  const Layout& layout = work.layout;
  const std::uint8_t* tables = work.tables.tables + std::int64_t{group} * layout.group * kTable;
  const std::int32_t* sums = work.tables.sums + group;
  if (layout.gather) {
    const std::int64_t first = at - std::int64_t{work.tables.first} * s.out_w;
    for (int p = 0; p < count; ++p) {
      window[p] = tables + (first + p) * layout.pixel;
      sum[p] = sums[(first + p) * s.groups];
    }
    return;
  }
  int y = at / s.out_w, x = at % s.out_w;
  for (int p = 0; p < count; ++p) {
    const std::int64_t row = y * s.stride_h - s.pad_h + s.border - work.tables.first;
    const std::int64_t column = x * s.stride_w - s.pad_w + s.border;
    window[p] = tables + row * layout.row + column * layout.pixel;
    const std::int32_t* corner = sums + (row * layout.columns + column) * s.groups;
    sum[p] = 0;
    for (int ky = 0; ky < s.kernel_h; ++ky) {
      const std::int32_t* tap =
          corner + std::int64_t{ky} * s.dilation_h * layout.columns * s.groups;
      for (int kx = 0; kx < s.kernel_w; ++kx) sum[p] += tap[kx * s.dilation_w * s.groups];
    }
    if (++x == s.out_w) x = 0, ++y;
  }
}

// Accumulators of `count` pixels and a block of output channels, and their epilogue.
void finish_pixels(const Work& work, const std::uint8_t* weights, int block, int at, int count) {
  const ConvShape& s = work.run.shape;
  const Layout& layout = work.layout;
  const int group = block / layout.blocks;
  const int channel = group * layout.per_group + block % layout.blocks * kBlock;
  const int end = (group + 1) * layout.per_group;
  const bool half = end - channel <= kBlock / 2;
  const std::uint8_t* window[kFinishPixels];
  std::int32_t sum[kFinishPixels];
  find_windows(work, group, at, count, window, sum);
  alignas(64) std::int32_t acc[kFinishPixels * kBlock];
  const Sum* sums = reinterpret_cast<const Sum*>(weights);
  const std::int32_t* offset = reinterpret_cast<const std::int32_t*>(weights + 64);
  Part part = {weights + 64 + kBlock * 4, weights + Layout::factor_bytes(s), {}, offset};
  for (int k = 0; k < s.weight_bits; k += 2, ++sums) {
    const bool pair = k + 1 < s.weight_bits;
    part.sum = *sums;
    const int most = pair   ? half ? kHalfPairPixels : kPairPixels
                     : half ? kHalfSinglePixels
                            : kSinglePixels;
    // Tiles of nearly one size.
    int done = 0;
    for (int tiles = parts(count, most); tiles > 0; --tiles) {
      const int pixels = (count - done + tiles - 1) / tiles;
      Pixels some;
      for (int p = 0; p < pixels; ++p) {
        some.window[p] = window[done + p];
        some.sum[p] = sum[done + p];
      }
      const Add add = pair   ? half ? pair_of<kHalfPairPixels, kHalfPair>(pixels)
                                    : pair_of<kPairPixels, kPairVectors>(pixels)
                      : half ? single_of<kHalfSinglePixels, kHalfSingle>(pixels)
                             : single_of<kSinglePixels, kSingleVectors>(pixels);
      add(s, layout, some, part, acc + done * kBlock);
      done += pixels;
    }
    part.factors += pair ? 2 * kBlock * 4 : kBlock * 4;
    part.index += static_cast<std::size_t>(layout.tables()) *
                  static_cast<std::size_t>((pair ? kPairVectors : kSingleVectors) * kVectorBytes);
    part.offset = nullptr;
  }
  for (int c = 0; c < kBlock && channel + c < end; c += kGroup) {
    finish(work.run.epilogue, s, acc + c, kBlock, count, at / s.out_w, at % s.out_w, channel + c,
           end);
  }
}

// Output rows of a strip, where tables are not of all of the input.
inline int strip_rows(const ConvShape& s, const Layout& layout, bool prepared) {
  const std::int64_t bytes = prepared ? kStripBytes : kLowMemoryStripBytes;
  if (layout.gather) {
    const std::int64_t rows = bytes / layout.row;
    return rows < 1 ? 1 : least(static_cast<int>(rows), s.out_h);
  }
  const int extent = s.dilation_h * (s.kernel_h - 1) + 1;
  const std::int64_t rows = (bytes / layout.row - extent) / s.stride_h + 1;
  return rows < 1 ? 1 : least(static_cast<int>(rows), s.out_h);
}

inline int strip_input_rows(const ConvShape& s, const Layout& layout, int rows) {
  if (layout.gather) return rows;
  return (rows - 1) * s.stride_h + s.dilation_h * (s.kernel_h - 1) + 1;
}

inline int pixel_parts(const ConvShape& s, bool prepared) {
  return prepared ? parts(s.out_h * s.out_w, kTaskPixels) : 1;
}

int tasks(const ConvShape& s, bool prepared) {
  const Layout layout(s);
  if (!layout.shared()) return parts(s.out_h, strip_rows(s, layout, prepared));
  return s.groups * layout.blocks * pixel_parts(s, prepared);
}

std::size_t scratch_bytes(const ConvShape& s, bool prepared) {
  const Layout layout(s);
  const std::size_t block = prepared ? 0 : (layout.block_bytes(s) + 63) / 64 * 64;
  if (layout.shared()) return block;
  return block + room(s, layout, strip_input_rows(s, layout, strip_rows(s, layout, prepared)));
}

void run_task(const ConvRun& run, int task, void* scratch) {
  const ConvShape& s = run.shape;
  const Layout layout(s);
  const bool prepared = run.weights != nullptr;
  const int all = s.groups * layout.blocks, pixels = s.out_h * s.out_w;
  std::uint8_t* free = static_cast<std::uint8_t*>(scratch);
  std::uint8_t* own = free;
  if (!prepared) free += (layout.block_bytes(s) + 63) / 64 * 64;
  Work work = {run, layout, {}};
  int first, last, begin, end;
  if (layout.shared()) {
    const int pieces = pixel_parts(s, prepared);
    first = task / pieces, last = first + 1;
    begin = prepared ? task % pieces * kTaskPixels : 0;
    end = prepared ? least(begin + kTaskPixels, pixels) : pixels;
    work.tables = tables_at(const_cast<void*>(run.transformed), layout, 0, layout.rows);
  } else {
    const int rows = strip_rows(s, layout, prepared), y = task * rows;
    const int some = least(rows, s.out_h - y);
    first = 0, last = all;
    begin = y * s.out_w, end = begin + some * s.out_w;
    const int from = layout.gather ? y : y * s.stride_h - s.pad_h + s.border;
    const int count = strip_input_rows(s, layout, some);
    work.tables = tables_at(free, layout, from, count);
    std::memset(work.tables.tables + count * layout.row, 0, kTables * kTable);
    make_tables(s, layout, run.input, from, from + count, work.tables);
  }
  for (int block = first; block < last; ++block) {
    const std::uint8_t* weights = own;
    if (prepared) {
      weights = static_cast<const std::uint8_t*>(run.weights) + block * layout.block_bytes(s);
    } else {
      prepare_block(s, run.source, block, own);
    }
    for (int at = begin; at < end; at += kFinishPixels) {
      finish_pixels(work, weights, block, at, least(kFinishPixels, end - at));
    }
  }
}

}  // namespace

extern const ConvKernel lookup;

const ConvKernel lookup = {"lookup",    eligible,        weight_bytes,  prepare, input_bytes,
                           input_tasks, transform_input, scratch_bytes, tasks,   run_task,
                           true};

}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
