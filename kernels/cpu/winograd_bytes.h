// Winograd's convolution in bytes, F(2x2, 3x3), exact (AVX-512 VNNI).
//
// F(2, 3) computes y_i = x_i w_0 + x_{i+1} w_1 + x_{i+2} w_2, i = 0, 1, from 4 products instead of
// 6, twice over so that all coefficients are integers:
//
//       1  0 -1  0         2  0  0
//   v = 0  1  1  0  x  u = 1  1  1  w    2 y = 1  1  1  0  (u * v)
//       0 -1  1  0         1 -1  1             0  1 -1 -1
//       0  1  0 -1         0  0  2
//
// Once down the columns and once along the rows: 16 products for 4 outputs instead of 36, and 4 y.
//
// Bytes. |u| <= 9 |w|, so levels up to 14 give signed bytes. x in 0 .. limit gives v in
// -2 limit .. 4 limit: the second row twice gives 4 positive terms, every other pair of rows 2
// positive and 2 negative ones. So v + 64 is an unsigned byte for limits up to 32. VPDPBUSD
// multiplies unsigned with signed bytes: sum (v + 64) u = sum v u + 64 sum u, so the sums of
// products begin with -64 sum u, a constant for each position and output channel. Transforms of
// bytes only add, subtract and double, so they may be done modulo 256, and those of sums modulo
// 2^32: only the final 4 y needs to fit.
//
//   input     tiles of 4 x 4 pixels, 2 apart               -> v[position][tile][channel]     bytes
//   weights   3 x 3 levels of 4 input channels             -> u[position][quad][output][4]   int8
//   products  a small matrix product for each position     -> m[tile][position][output]      int32
//   output    m -> 2 x 2 accumulators                      -> epilogue
//
// Products. Sums of 6 tiles x 64 output channels fill 24 of the 32 registers. 4 input channels of
// one tile are broadcast from memory; a lane is an output channel, so nothing is summed across
// lanes.
#pragma once

#include <immintrin.h>

#include "winograd_tiles.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

typedef __m512i Bytes;  // 64 bytes, or 16 of 32 bits

constexpr int kOut = 2, kIn = 4, kPositions = kIn * kIn;
constexpr int kBlock = 64;  // output channels of a block
constexpr int kBlockVectors = kBlock / 16;
constexpr int kStrip = 7;               // tiles whose sums stay in registers
constexpr int kRowPixels = 28;          // finished together: rows of 56, 28 and 14 fill them
constexpr int kMostTiles = 28;          // of a group: m takes 115 KB
constexpr int kQuadBytes = 4 * kBlock;  // of u, for 4 input channels and a block
constexpr int kQuadLevels = 9 * kQuadBytes;
constexpr int kTileSums = kPositions * kBlock;
constexpr int kOffset = 64;  // of v
// Planes of v that begin a multiple of 4,096 bytes apart would share lines of the first-level cache
// (the transform writes to all of them in turn): they are 64 bytes longer than their contents.
constexpr int kApart = 64;

inline Bytes load_bytes(const void* from) { return _mm512_load_si512(from); }
inline void save_bytes(void* to, Bytes v) { _mm512_store_si512(to, v); }
inline Bytes add8(Bytes a, Bytes b) { return _mm512_add_epi8(a, b); }
inline Bytes subtract8(Bytes a, Bytes b) { return _mm512_sub_epi8(a, b); }

// How a convolution is cut up. Sizes of u and levels are those of a block.
struct Cut {
  int blocks;
  int quads;  // of input channels
  int row;    // bytes from tile to tile of v
  Tiles tiles;
  int plane;  // bytes from position to position of v

  explicit Cut(const ConvShape& s)
      : blocks(ceil_divide(s.out_channels, kBlock)),
        quads(s.pixel_bytes / 4),
        row(ceil_divide(s.pixel_bytes, 64) * 64),
        tiles(s, kOut, kMostTiles, blocks),
        plane(tiles.most * row + kApart) {}

  std::int64_t u_plane() const { return std::int64_t{quads} * kQuadBytes; }
  std::int64_t start_bytes() const { return kPositions * kBlock * 4; }
  // What the sums begin with, then u.
  std::int64_t block_bytes() const { return start_bytes() + kPositions * u_plane(); }
  std::int64_t level_bytes() const { return std::int64_t{quads} * kQuadLevels; }
  std::int64_t group_bytes() const { return std::int64_t{kPositions} * plane; }
  // Of a task's scratch: m, then v unless it is transformed before.
  std::int64_t m_bytes() const { return std::int64_t{tiles.most} * kTileSums * 4; }
  std::int64_t v_scratch() const { return tiles.chunks == 1 ? group_bytes() : 0; }
};

bool eligible(const ConvShape& s) {
  return is_3x3(s) && s.input_limit <= 32 && 9 * s.weight_limit <= 127 &&
         std::int64_t{36} * s.in_channels * s.input_limit * s.weight_limit < INT32_MAX;
}

// --- Weights ---

inline void transform3(const Bytes* w, Bytes* u) {
  const Bytes ends = add8(w[0], w[2]);
  u[0] = add8(w[0], w[0]);
  u[1] = add8(ends, w[1]);
  u[2] = subtract8(ends, w[1]);
  u[3] = add8(w[2], w[2]);
}

// u of one block from its levels, and what its sums begin with.
inline void transform_weights(const Cut& cut, const std::int8_t* levels, std::int32_t* start,
                              std::int8_t* u) {
  for (int q = 0; q < cut.quads; ++q) {
    for (int vector = 0; vector < kBlockVectors; ++vector, levels += 9 * 64) {
      Bytes t[3][kIn];
      for (int i = 0; i < 3; ++i) {
        const Bytes w[3] = {load_bytes(levels + i * 192), load_bytes(levels + i * 192 + 64),
                            load_bytes(levels + i * 192 + 128)};
        transform3(w, t[i]);
      }
      for (int j = 0; j < kIn; ++j) {
        const Bytes w[3] = {t[0][j], t[1][j], t[2][j]};
        Bytes to[kIn];
        transform3(w, to);
        for (int i = 0; i < kIn; ++i) {
          save_bytes(u + (i * kIn + j) * cut.u_plane() + q * kQuadBytes + vector * 64, to[i]);
        }
      }
    }
  }
  for (int i = 0; i < kPositions * kBlockVectors; ++i) {
    const std::int8_t* from = u + i / kBlockVectors * cut.u_plane() + i % kBlockVectors * 64;
    Bytes sum = _mm512_setzero_si512();
    for (int q = 0; q < cut.quads; ++q) {
      sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(kOffset), load_bytes(from + q * kQuadBytes));
    }
    save_bytes(start + i * 16, _mm512_sub_epi32(_mm512_setzero_si512(), sum));
  }
}

std::size_t weight_bytes(const ConvShape& s) {
  const Cut cut(s);
  // While u is prepared, the levels of one block lie behind it.
  return static_cast<std::size_t>(cut.block_bytes() * cut.blocks + cut.level_bytes());
}

void prepare(const ConvShape& s, const ConvWeights& w, void* out) {
  const Cut cut(s);
  std::int8_t* to = static_cast<std::int8_t*>(out);
  std::int8_t* levels = to + cut.block_bytes() * cut.blocks;
  for (int block = 0; block < cut.blocks; ++block, to += cut.block_bytes()) {
    gather_levels<kBlock, 16, 4>(s, w, block, levels);
    transform_weights(cut, levels, reinterpret_cast<std::int32_t*>(to), to + cut.start_bytes());
  }
}

// --- Input ---

// v: of the tile, at the first position and channel.
inline void transform_tile(const ConvShape& s, const Cut& cut, const std::uint8_t* input, int tile,
                           std::uint8_t* v) {
  const Window<kIn> window(s, cut.tiles, input, tile);
  const Bytes offset = _mm512_set1_epi8(kOffset);
  for (int c = 0; c < s.in_channels; c += 64) {
    Bytes t[kIn][kIn];
    for (int j = 0; j < kIn; ++j) {
      Bytes x[kIn];
      for (int i = 0; i < kIn; ++i) {
        x[i] = _mm512_loadu_si512(window.corner + window.row[i] + window.column[j] + c);
      }
      t[0][j] = subtract8(x[0], x[2]);
      t[1][j] = add8(x[1], x[2]);
      t[2][j] = subtract8(x[2], x[1]);
      t[3][j] = subtract8(x[1], x[3]);
    }
    std::uint8_t* at = v + c;
    for (int i = 0; i < kIn; ++i, at += kIn * std::int64_t{cut.plane}) {
      const Bytes t1 = add8(t[i][1], offset), t2 = add8(t[i][2], offset);
      save_bytes(at, subtract8(add8(t[i][0], offset), t[i][2]));
      save_bytes(at + cut.plane, add8(t[i][1], t2));
      save_bytes(at + 2 * std::int64_t{cut.plane}, subtract8(t2, t[i][1]));
      save_bytes(at + 3 * std::int64_t{cut.plane}, subtract8(t1, t[i][3]));
    }
  }
}

std::size_t input_bytes(const ConvShape& s) {
  const Cut cut(s);
  return cut.tiles.chunks == 1 ? 0 : static_cast<std::size_t>(cut.group_bytes() * cut.tiles.groups);
}

int input_tasks(const ConvShape& s) {
  const Cut cut(s);
  return cut.tiles.chunks == 1 ? 0 : cut.tiles.count;
}

void transform_input(const ConvShape& s, const std::uint8_t* input, void* out, int tile) {
  const Cut cut(s);
  const int group = cut.tiles.group_of(tile);
  std::uint8_t* v = static_cast<std::uint8_t*>(out) + group * cut.group_bytes();
  transform_tile(s, cut, input, tile, v + (tile - cut.tiles.first(group)) * cut.row);
}

// --- Products ---

// m = start + sum over quads of v u, for T tiles and 64 output channels.
template <int T>
inline void multiply_strip(const std::uint8_t* v, std::int64_t row, const std::int8_t* u, int quads,
                           const std::int32_t* start, std::int32_t* m) {
  Bytes sum[T][kBlockVectors];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
    for (int k = 0; k < kBlockVectors; ++k) sum[t][k] = load_bytes(start + 16 * k);
  }
  // Every tile is 0, 1 or 2 rows behind one of these.
  const std::uint8_t *v3 = v + 3 * row, *v6 = v3 + 3 * row;
  for (int q = 0; q < quads; ++q) {
    Bytes w[kBlockVectors];
#pragma GCC unroll 4
    for (int k = 0; k < kBlockVectors; ++k) w[k] = load_bytes(u + 64 * k);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      std::int32_t quad;
      std::memcpy(&quad, t < 3 ? v + t * row : t < 6 ? v3 + (t - 3) * row : v6, sizeof(quad));
      const Bytes four = _mm512_set1_epi32(quad);
#pragma GCC unroll 4
      for (int k = 0; k < kBlockVectors; ++k) {
        sum[t][k] = _mm512_dpbusd_epi32(sum[t][k], four, w[k]);
      }
    }
    v += 4;
    v3 += 4;
    v6 += 4;
    u += kQuadBytes;
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
    for (int k = 0; k < kBlockVectors; ++k) save_bytes(m + t * kTileSums + 16 * k, sum[t][k]);
  }
}

// The same for `tiles` tiles at all positions.
inline void multiply(const Cut& cut, const std::uint8_t* v, const std::int8_t* u,
                     const std::int32_t* start, int tiles, std::int32_t* m) {
  const std::int64_t row = cut.row;
  for (int position = 0; position < kPositions; ++position) {
    int first = 0;
    for (int strips = ceil_divide(tiles, kStrip); strips > 0; --strips) {
      const int count = ceil_divide(tiles - first, strips);  // strips of nearly the same size
      const std::uint8_t* from = v + first * row;
      std::int32_t* to = m + first * kTileSums + position * kBlock;
      switch (count) {
        case 1:
          multiply_strip<1>(from, row, u, cut.quads, start, to);
          break;
        case 2:
          multiply_strip<2>(from, row, u, cut.quads, start, to);
          break;
        case 3:
          multiply_strip<3>(from, row, u, cut.quads, start, to);
          break;
        case 4:
          multiply_strip<4>(from, row, u, cut.quads, start, to);
          break;
        case 5:
          multiply_strip<5>(from, row, u, cut.quads, start, to);
          break;
        case 6:
          multiply_strip<6>(from, row, u, cut.quads, start, to);
          break;
        case 7:
          multiply_strip<7>(from, row, u, cut.quads, start, to);
          break;
      }
      first += count;
    }
    v += cut.plane;
    u += cut.u_plane();
    start += kBlock;
  }
}

// --- Output ---

// 2 (y_0, y_1) of 4 sums.
inline void transform4(const Bytes* m, Bytes* y) {
  y[0] = _mm512_add_epi32(_mm512_add_epi32(m[0], m[1]), m[2]);
  y[1] = _mm512_sub_epi32(_mm512_sub_epi32(m[1], m[2]), m[3]);
}

// Accumulators of 16 channels of one tile, `row` accumulators from row to row.
inline void transform_output(const std::int32_t* m, std::int32_t* acc, int row) {
  Bytes t[kOut][kIn];
  for (int j = 0; j < kIn; ++j) {
    Bytes from[kIn], to[kOut];
    for (int i = 0; i < kIn; ++i) from[i] = load_bytes(m + (i * kIn + j) * kBlock);
    transform4(from, to);
    for (int i = 0; i < kOut; ++i) t[i][j] = to[i];
  }
  for (int i = 0; i < kOut; ++i) {
    Bytes y[kOut];
    transform4(t[i], y);
    for (int j = 0; j < kOut; ++j) {
      save_bytes(acc + i * row + j * kBlock, _mm512_srai_epi32(y[j], 2));
    }
  }
}

// --- Tasks ---

std::size_t scratch_bytes(const ConvShape& s, bool) {
  const Cut cut(s);
  return static_cast<std::size_t>(cut.m_bytes() + cut.v_scratch());
}

int tasks(const ConvShape& s, bool) {
  const Cut cut(s);
  return cut.tiles.groups * cut.tiles.chunks;
}

void run_task(const ConvRun& run, int task, void* scratch) {
  const ConvShape& s = run.shape;
  const Cut cut(s);
  const int group = task / cut.tiles.chunks, chunk = task % cut.tiles.chunks;
  const int first = cut.tiles.first(group), count = cut.tiles.first(group + 1) - first;

  std::int32_t* m = static_cast<std::int32_t*>(scratch);
  const std::uint8_t* v;
  if (cut.tiles.chunks == 1) {
    std::uint8_t* own = static_cast<std::uint8_t*>(scratch) + cut.m_bytes();
    for (int t = 0; t < count; ++t) transform_tile(s, cut, run.input, first + t, own + t * cut.row);
    v = own;
  } else {
    v = static_cast<const std::uint8_t*>(run.transformed) + group * cut.group_bytes();
  }

  const int end = cut.blocks * (chunk + 1) / cut.tiles.chunks;
  for (int block = cut.blocks * chunk / cut.tiles.chunks; block < end; ++block) {
    const std::int8_t* kept =
        static_cast<const std::int8_t*>(run.weights) + block * cut.block_bytes();
    multiply(cut, v, kept + cut.start_bytes(), reinterpret_cast<const std::int32_t*>(kept), count,
             m);
    const int exist =
        s.out_channels - block * kBlock < kBlock ? s.out_channels - block * kBlock : kBlock;
    finish_tiles<kOut, kBlock, kRowPixels>(
        run, cut.tiles, first, count, block * kBlock, [&](int tile, std::int32_t* acc, int row) {
          for (int c = 0; c < exist; c += 16) {
            transform_output(m + tile * kTileSums + c, acc + c, row);
          }
        });
  }
}

constexpr ConvKernel winograd_bytes(const char* name) {
  return {name,          eligible, weight_bytes, prepare, input_bytes, input_tasks, transform_input,
          scratch_bytes, tasks,    run_task,     false};
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
