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
//   floor(65,535 / u) steps   at least, before the sums are added to 32-bit ones: 9 with levels of
//                             15 and 14
//
// Symmetric levels have even p. Their halves are multiplied and the 32-bit sums doubled: 19 steps.
// With bits that are not all set sums hold more steps: lookup_plan.h.
//
// Of one plane (1-bit weights, and the third plane of 3-bit weights) a vector has 4 kLanes outputs,
// p is multiplied after the widening, and a sum holds floor(65,535 / (16 limit)) steps at least.
//
// Where no accumulator of a block can leave 16 bits (`fits_words`), all of this is modulo 2^16:
// sums hold any number of steps and are multiplied and added to offset S before the widening.
//
// So three planes are a pair and a single one, four are two pairs: time is linear in the bits of
// the weights and does not depend on those of the input.
//
// Of small inputs a byte holds the sums of several steps, and 16-bit sums are added to once for all
// of them.
//
// With VBMI a look-up is in 64 bytes (VPERMB): a table is of six channels, and no broadcast. A step
// takes two or three tables, of small inputs one.
//
// Where the border of the input is of zeros (a byte 0: levels without a sign) so are its tables,
// and windows leave out what lies there: whole rows of taps, and of small inputs taps of the first
// and the last pixel of a tile. Of 3x3 taps on a map of 7x7 pixels 80 of 441 are left out.
//
// Tables take four times the input's bytes (of six channels eleven times). Of a small map each
// thread makes all of them before its first task: it takes longer to fetch one from another
// processor's cache. Of a large one each task makes those of a strip of output rows, and goes
// through all output channels.

#include "simd.h"

#if defined(RSQUANT_LOOKUP)

#include <cstring>

#include "lookup_tables.h"
#include "lookup_weights.h"
#include "lookup_windows.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Of tables that a task makes. With tables of 64 bytes a pixel has 11 bytes of them for each of
// input: 192 KB would be 4 rows of 56 pixels and 64 channels, of which neighbours make 2 as well.
constexpr std::int64_t kStripBytes = (kChannels == 6 ? 640 : 192) * 1024;
constexpr std::int64_t kLowMemoryStripBytes =
    (kChannels == 6 ? 1024 : 512) * 1024;  // each prepares all weights

constexpr int kTaskPixels = 2 * kFinishPixels;

// Fewest channels of a group whose tables and vectors are not mostly empty.
constexpr int kFewestChannels = 16;

bool eligible(const ConvShape& s) {
  if (s.weight_bits == 0) return false;
  if (kChannels * Lookup::kTables * s.input_limit > kMostByte || 2 * s.weight_limit > 127) {
    return false;
  }
  return s.groups == 1 || (s.in_channels / s.groups >= kFewestChannels &&
                           s.out_channels / s.groups >= kFewestChannels);
}

// What a task works on.
struct Work {
  const ConvRun& run;
  Layout layout;
  Tables tables;
};

// Accumulators of some pixels and a block of output channels, and their epilogue.
void finish_pixels(const Work& work, const std::uint8_t* weights, int block,
                   const Windows& windows) {
  const ConvShape& s = work.run.shape;
  const Layout& layout = work.layout;
  const int group = block / layout.blocks;
  const int channel = group * layout.per_group + block % layout.blocks * kBlock;
  const int end = (group + 1) * layout.per_group;
  const bool half = is_half(end - channel);
  alignas(64) std::int32_t acc[kFinishPixels * kBlock];
  const std::size_t block_bytes = layout.block_bytes(s);
  const Sum* sums = reinterpret_cast<const Sum*>(weights);
  const std::uint8_t* segments = weights + Layout::factor_bytes(s);
  Part part = {};
  part.factors = weights + 64 + kBlock * 4;
  part.index = weights + layout.head_bytes(s);
  part.offset = reinterpret_cast<const std::int32_t*>(weights + 64);
  part.ahead = work.run.weights == nullptr ? 0 : static_cast<std::int64_t>(block_bytes);
  for (int k = 0; k < s.weight_bits; k += 2, ++sums) {
    const bool pair = k + 1 < s.weight_bits;
    part.sum = *sums;
    part.segments = reinterpret_cast<const Segment*>(segments);
    part.run_bytes = static_cast<std::size_t>(layout.run_places() * index_bytes(pair, half));
    add_part(s, layout, windows, tiles_for(layout.steps, pair, half), part, acc);
    part.factors += pair ? 2 * kBlock * 4 : kBlock * 4;
    part.index += static_cast<std::size_t>(layout.runs) * part.run_bytes;
    part.offset = nullptr;
    segments += layout.segment_bytes();
  }
  const Epilogue& e = work.run.epilogue;
  const int y = windows.at / s.out_w, x = windows.at % s.out_w;
  if (part.sum.narrow != 0) {
#if defined(RSQUANT_WORD_LEVELS)
    const int exist = least(end - channel, kBlock);
    if (takes_narrow(e, exist)) {
      return finish_narrow(e, s, reinterpret_cast<const std::int16_t*>(acc), kBlock, windows.count,
                           y, x, channel, exist);
    }
#endif
    widen_narrow(acc, windows.count);
  }
  finish_channels(e, s, acc, kBlock, windows.count, y, x, channel, kBlock, end);
}

// Strips of output rows of nearly one size, where tables are not of the whole map: as many for each
// thread.
inline int strips(const ConvShape& s, const Layout& layout, bool prepared) {
  const std::int64_t bytes = prepared ? kStripBytes : kLowMemoryStripBytes;
  std::int64_t rows = bytes / layout.row;
  if (!layout.gather) {
    const int extent = s.dilation_h * (s.kernel_h - 1) + 1;
    rows = (rows - extent) / s.stride_h + 1;
  }
  const int most = rows < 1 ? 1 : least(static_cast<int>(rows), s.out_h);
  const int found = parts(s.out_h, most);
  return s.threads < 2 ? found : least(s.out_h, parts(found, s.threads) * s.threads);
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
  if (!layout.whole_map(s, prepared)) return strips(s, layout, prepared);
  return s.groups * layout.blocks * pixel_parts(s, prepared);
}

// Of a block of weights, if a thread prepares it; tables lie behind it.
inline std::size_t own_bytes(const ConvShape& s, const Layout& layout, bool prepared) {
  return prepared ? 0 : (layout.block_bytes(s) + 63) / 64 * 64;
}

std::size_t scratch_bytes(const ConvShape& s, bool prepared) {
  const Layout layout(s);
  const int most = parts(s.out_h, strips(s, layout, prepared));
  const int rows = layout.whole_map(s, prepared) ? layout.rows : strip_input_rows(s, layout, most);
  return own_bytes(s, layout, prepared) + room(s, layout, rows);
}

// The tables of all of the map, for all tasks of a thread.
void begin(const ConvRun& run, void* scratch) {
  const ConvShape& s = run.shape;
  const Layout layout(s);
  if (!layout.whole_map(s, run.weights != nullptr)) return;
  std::uint8_t* at = static_cast<std::uint8_t*>(scratch);
  at += own_bytes(s, layout, run.weights != nullptr);
  make_tables(s, layout, run.input, {0, layout.rows}, tables_at(at, layout, 0, layout.rows));
}

void run_task(const ConvRun& run, int task, void* scratch) {
  const ConvShape& s = run.shape;
  const Layout layout(s);
  const bool prepared = run.weights != nullptr;
  const int all = s.groups * layout.blocks, pixels = s.out_h * s.out_w;
  std::uint8_t* own = static_cast<std::uint8_t*>(scratch);
  std::uint8_t* tables = own + own_bytes(s, layout, prepared);
  Work work = {run, layout, {}};
  int first, last, begin, end;
  if (layout.whole_map(s, prepared)) {
    const int pieces = pixel_parts(s, prepared), piece = task % pieces;
    first = task / pieces, last = first + 1;
    begin = part_begin(pixels, pieces, piece), end = part_begin(pixels, pieces, piece + 1);
    work.tables = tables_at(tables, layout, 0, layout.rows);
  } else {
    const int all_strips = strips(s, layout, prepared), y = part_begin(s.out_h, all_strips, task);
    const int some = part_begin(s.out_h, all_strips, task + 1) - y;
    first = 0, last = all;
    begin = y * s.out_w, end = begin + some * s.out_w;
    const int from = layout.gather ? y : y * s.stride_h - s.pad_h + s.border;
    const int count = strip_input_rows(s, layout, some);
    work.tables = tables_at(tables, layout, from, count);
    make_tables(s, layout, run.input, {from, from + count}, work.tables);
  }
  const int pieces = parts(end - begin, kFinishPixels);
  Windows windows;
  const auto find = [&](int block, int i) {
    const int at = begin + part_begin(end - begin, pieces, i);
    const int next = begin + part_begin(end - begin, pieces, i + 1);
    find_windows(s, layout, work.tables, block / layout.blocks, at, next - at, windows);
  };
  if (!prepared) {
    for (int block = first; block < last; ++block) {
      prepare_block(s, run.source, block, false, own);
      for (int i = 0; i < pieces; ++i) {
        find(block, i);
        finish_pixels(work, own, block, windows);
      }
    }
    return;
  }
  // All blocks of some pixels: their tables and outputs stay in the first-level cache.
  const std::uint8_t* weights = static_cast<const std::uint8_t*>(run.weights);
  for (int i = 0; i < pieces; ++i) {
    for (int block = first; block < last; ++block) {
      if (block == first || block % layout.blocks == 0) find(block, i);
      finish_pixels(work, weights + block * layout.block_bytes(s), block, windows);
    }
  }
}

}  // namespace

extern const ConvKernel lookup;

const ConvKernel lookup = {"lookup", eligible, weight_bytes,  prepare, nullptr,
                           nullptr,  nullptr,  scratch_bytes, tasks,   run_task,
                           true,     false,    begin};

}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
