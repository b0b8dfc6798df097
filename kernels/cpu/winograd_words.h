// Winograd's convolution in 16-bit words, F(4x4, 3x3) and F(6x6, 3x3), exact (AVX2).
//
// VPMADDWD multiplies half as many numbers as the VPMADDUBSW of the direct convolution, but F4
// needs 4 times fewer products and F6 5.06 times fewer: the bounds are 2 and 2.5 times the direct
// convolution's. F6 transforms more and fits fewer map sizes. winograd_transforms.h derives the
// arithmetic.
//
//   input     tiles of kIn x kIn pixels, kOut apart  -> v[position][tile][channel]          int16
//   weights   3 x 3 levels of each pair of channels  -> u[position][pair][output][2]        int16
//   products  a small matrix product per position    -> m[tile][position][output]           int32
//   output    m -> kOut x kOut accumulators          -> epilogue
//
// Products. Sums of 6 tiles x 16 output channels fill 12 of the 16 registers. A pair of input
// channels of one tile is broadcast from memory; a lane is an output channel, so nothing is summed
// across lanes.
//
// Where the weights live. The u of a layer take 72 bytes (F4) or 128 (F6) for 9 levels: 19 MB for
// 512 x 512 channels, which arrive from memory slower than they are used. Up to kMostPrepared they
// are kept as they are. Beyond that the levels are kept as int8, and a task transforms those of 64
// input channels (a part) and 16 output channels at a time, to meet all tiles of its group.
#pragma once

#include "winograd_tiles.h"
#include "winograd_transforms.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kStrip = 6;                        // tiles whose sums stay in registers
constexpr int kMostTiles = 24;                   // of a group: m takes 55 KB (F4) or 98 KB (F6)
constexpr std::int64_t kMostInput = 128 << 10;   // bytes of v of a group, if weights are kept as u
constexpr std::int64_t kMostPrepared = 2 << 20;  // bytes of u of a layer
constexpr int kPart = 32;                        // pairs of input channels transformed together
constexpr int kPairWords = 2 * kGroup;           // of u, for a pair and 16 output channels
constexpr int kPairLevels = 9 * kPairWords;
// Planes of v and u that begin a multiple of 4,096 bytes apart would share lines of the first-level
// cache (a transform writes to all of them in turn): they are 64 bytes longer than their contents.
constexpr int kApart = 32;
constexpr int kPartPlane = kPart * kPairWords + kApart;

inline Words load_words(const void* from) {
  return _mm256_load_si256(static_cast<const Words*>(from));
}
inline void store_words(void* to, Words v) { _mm256_store_si256(static_cast<Words*>(to), v); }

// How a convolution is cut up. Sizes of u and levels are those of a block of 16 output channels.
template <class F>
struct Cut {
  static constexpr int kPositions = F::kIn * F::kIn;
  static constexpr int kTileSums = kPositions * kGroup;

  int blocks;
  int pairs;  // of input channels; the last may be zeros
  bool transformed;
  int part;  // pairs whose products are summed in one go
  int row;   // words from tile to tile of v
  Tiles tiles;
  int plane;  // words from position to position of v

  explicit Cut(const ConvShape& s)
      : blocks(ceil_divide(s.out_channels, kGroup)),
        pairs(s.pixel_bytes / 2),
        transformed(blocks * u_words() * 2 <= kMostPrepared),
        part(transformed || pairs < kPart ? pairs : kPart),
        row(ceil_divide(part, 8) * 16),
        tiles(s, F::kOut, most_tiles(), blocks),
        plane(tiles.most * row + kApart) {}

  // Weights that each group transforms again cost the less, the more tiles they meet.
  int most_tiles() const {
    if (!transformed) return kMostTiles;
    const int fit = static_cast<int>(kMostInput / (kPositions * row * 2)) / kStrip * kStrip;
    return fit < kStrip ? kStrip : fit < kMostTiles ? fit : kMostTiles;
  }
  std::int64_t u_plane() const { return std::int64_t{pairs} * kPairWords; }
  std::int64_t u_words() const { return kPositions * u_plane(); }
  std::int64_t level_bytes() const { return std::int64_t{pairs} * kPairLevels; }
  std::int64_t block_bytes() const { return transformed ? u_words() * 2 : level_bytes(); }
  // Of one part of a group's input, and of all of it.
  std::int64_t part_words() const { return std::int64_t{kPositions} * plane; }
  std::int64_t group_words() const { return part_words() * ceil_divide(pairs, part); }
  // Of a task's scratch: m, u of a part unless all u is kept, v unless it is transformed before.
  std::int64_t m_words() const { return std::int64_t{tiles.most} * kTileSums * 2; }
  std::int64_t u_scratch() const { return transformed ? 0 : std::int64_t{kPositions} * kPartPlane; }
  std::int64_t v_scratch() const { return tiles.chunks == 1 ? group_words() : 0; }
};

// Conditions as winograd_transforms.h derives them.
template <class F>
bool eligible(const ConvShape& s) {
  return is_3x3(s) && F::kInputGrowth * s.input_limit <= 32767 && s.weight_limit <= 127 &&
         std::int64_t{9} * s.in_channels * s.input_limit * s.weight_limit < (1 << 25);
}

// --- Weights ---

// u of `pairs` pairs from their levels; `plane` words from position to position.
template <class F>
void transform_weights(const std::int8_t* levels, int pairs, std::int64_t plane, std::int16_t* u) {
  for (int half = 0; half < 2 * pairs; ++half) {
    Words t[3][F::kIn];
    for (int i = 0; i < 3; ++i) {
      Words w[3];
      for (int j = 0; j < 3; ++j) {
        w[j] = _mm256_cvtepi8_epi16(
            _mm_load_si128(reinterpret_cast<const __m128i*>(levels + (i * 3 + j) * 16)));
      }
      F::weight(w, t[i]);
    }
    for (int j = 0; j < F::kIn; ++j) {
      const Words w[3] = {t[0][j], t[1][j], t[2][j]};
      Words to[F::kIn];
      F::weight(w, to);
#pragma GCC unroll 8
      for (int i = 0; i < F::kIn; ++i) store_words(u + (i * F::kIn + j) * plane, to[i]);
    }
    levels += kPairLevels / 2;
    u += kPairWords / 2;
  }
}

template <class F>
std::size_t weight_bytes(const ConvShape& s) {
  const Cut<F> cut(s);
  // While u is prepared, the levels of one block lie behind it.
  const std::int64_t levels = cut.transformed ? cut.level_bytes() : 0;
  return static_cast<std::size_t>(cut.block_bytes() * cut.blocks + levels);
}

template <class F>
void prepare(const ConvShape& s, const ConvWeights& w, void* out) {
  const Cut<F> cut(s);
  std::int8_t* to = static_cast<std::int8_t*>(out);
  std::int8_t* levels = to + cut.block_bytes() * cut.blocks;
  for (int block = 0; block < cut.blocks; ++block, to += cut.block_bytes()) {
    if (!cut.transformed) {
      gather_levels<kGroup, 8, 2>(s, w, block, to);
      continue;
    }
    gather_levels<kGroup, 8, 2>(s, w, block, levels);
    transform_weights<F>(levels, cut.pairs, cut.u_plane(), reinterpret_cast<std::int16_t*>(to));
  }
}

// --- Input ---

// v: of the tile, at the first position and channel.
template <class F>
void transform_tile(const ConvShape& s, const Cut<F>& cut, const std::uint8_t* input, int tile,
                    std::int16_t* v) {
  const Window<F::kIn> window(s, cut.tiles, input, tile);
  for (int c = 0; c < s.in_channels; c += 16) {
    Words t[F::kIn][F::kIn];
    for (int j = 0; j < F::kIn; ++j) {
      Words from[F::kIn], to[F::kIn];
#pragma GCC unroll 8
      for (int i = 0; i < F::kIn; ++i) {
        const std::uint8_t* pixel = window.corner + window.row[i] + window.column[j] + c;
        from[i] = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(pixel)));
      }
      F::input(from, to);
#pragma GCC unroll 8
      for (int i = 0; i < F::kIn; ++i) t[i][j] = to[i];
    }
    std::int16_t* at = v + c / (2 * cut.part) * cut.part_words() + c % (2 * cut.part);
    for (int i = 0; i < F::kIn; ++i) {
      Words to[F::kIn];
      F::input(t[i], to);
#pragma GCC unroll 8
      for (int j = 0; j < F::kIn; ++j, at += cut.plane) store_words(at, to[j]);
    }
  }
}

template <class F>
std::size_t input_bytes(const ConvShape& s) {
  const Cut<F> cut(s);
  if (cut.tiles.chunks == 1) return 0;
  return static_cast<std::size_t>(cut.group_words() * cut.tiles.groups * 2);
}

template <class F>
int input_tasks(const ConvShape& s) {
  const Cut<F> cut(s);
  return cut.tiles.chunks == 1 ? 0 : cut.tiles.count;
}

template <class F>
void transform_input(const ConvShape& s, const std::uint8_t* input, void* out, int tile) {
  const Cut<F> cut(s);
  const int group = cut.tiles.group_of(tile);
  std::int16_t* v = static_cast<std::int16_t*>(out) + group * cut.group_words();
  transform_tile(s, cut, input, tile, v + (tile - cut.tiles.first(group)) * cut.row);
}

// --- Products ---

// m = (more ? m : 0) + sum over pairs of v u, for T tiles and 16 output channels.
template <int T>
inline void multiply_strip(const std::int16_t* v, std::int64_t row, const std::int16_t* u,
                           int pairs, bool more, std::int32_t* m, int tile_sums) {
  Words sum[T][2];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    sum[t][0] = more ? load_words(m + t * tile_sums) : _mm256_setzero_si256();
    sum[t][1] = more ? load_words(m + t * tile_sums + 8) : _mm256_setzero_si256();
  }
  const std::int16_t* v3 = v + 3 * row;  // every tile is 0, 1 or 2 rows behind v or v3
  // Unrolled, GCC 12 adds up the products of two steps first and keeps the sums in memory.
#pragma GCC unroll 1
  for (int p = 0; p < pairs; ++p) {
    const Words u0 = load_words(u), u1 = load_words(u + 16);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      std::int32_t pair;
      std::memcpy(&pair, t < 3 ? v + t * row : v3 + (t - 3) * row, sizeof(pair));
      const Words both = _mm256_set1_epi32(pair);
      sum[t][0] = add32(sum[t][0], _mm256_madd_epi16(both, u0));
      sum[t][1] = add32(sum[t][1], _mm256_madd_epi16(both, u1));
    }
    v += 2;
    v3 += 2;
    u += kPairWords;
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    store_words(m + t * tile_sums, sum[t][0]);
    store_words(m + t * tile_sums + 8, sum[t][1]);
  }
}

// The same for `tiles` tiles at all positions. u: u_plane words from position to position.
template <class F>
void multiply(const Cut<F>& cut, const std::int16_t* v, const std::int16_t* u, std::int64_t u_plane,
              int pairs, bool more, int tiles, std::int32_t* m) {
  constexpr int kSums = Cut<F>::kTileSums;
  const std::int64_t row = cut.row;
  for (int position = 0; position < Cut<F>::kPositions; ++position) {
    int first = 0;
    for (int strips = ceil_divide(tiles, kStrip); strips > 0; --strips) {
      const int count = ceil_divide(tiles - first, strips);  // strips of nearly the same size
      const std::int16_t* from = v + first * row;
      std::int32_t* to = m + first * kSums + position * kGroup;
      switch (count) {
        case 1:
          multiply_strip<1>(from, row, u, pairs, more, to, kSums);
          break;
        case 2:
          multiply_strip<2>(from, row, u, pairs, more, to, kSums);
          break;
        case 3:
          multiply_strip<3>(from, row, u, pairs, more, to, kSums);
          break;
        case 4:
          multiply_strip<4>(from, row, u, pairs, more, to, kSums);
          break;
        case 5:
          multiply_strip<5>(from, row, u, pairs, more, to, kSums);
          break;
        case 6:
          multiply_strip<6>(from, row, u, pairs, more, to, kSums);
          break;
      }
      first += count;
    }
    v += cut.plane;
    u += u_plane;
  }
}

// --- Output ---

// Accumulators of one tile, 16 channels to a pixel, `row` accumulators from row to row.
template <class F>
inline void transform_output(const std::int32_t* m, std::int32_t* acc, int row) {
  for (int half = 0; half < kGroup; half += 8) {
    Words t[F::kOut][F::kIn];
    for (int j = 0; j < F::kIn; ++j) {
      Words from[F::kIn], to[F::kOut];
#pragma GCC unroll 8
      for (int i = 0; i < F::kIn; ++i) from[i] = load_words(m + (i * F::kIn + j) * kGroup + half);
      F::output(from, to);
#pragma GCC unroll 8
      for (int i = 0; i < F::kOut; ++i) t[i][j] = to[i];
    }
#pragma GCC unroll 8
    for (int i = 0; i < F::kOut; ++i) {
      Words y[F::kOut];
      F::output(t[i], y);
#pragma GCC unroll 8
      for (int j = 0; j < F::kOut; ++j) {
        const Words shifted = times32(y[j], static_cast<int>(F::kInverse));
        store_words(acc + i * row + j * kGroup + half,
                    _mm256_srai_epi32(shifted, F::kShift[i] + F::kShift[j]));
      }
    }
  }
}

// --- Tasks ---

template <class F>
std::size_t scratch_bytes(const ConvShape& s, bool) {
  const Cut<F> cut(s);
  return static_cast<std::size_t>(cut.m_words() + cut.u_scratch() + cut.v_scratch()) * 2;
}

template <class F>
int tasks(const ConvShape& s, bool) {
  const Cut<F> cut(s);
  return cut.tiles.groups * cut.tiles.chunks;
}

template <class F>
void run_task(const ConvRun& run, int task, void* scratch) {
  const ConvShape& s = run.shape;
  const Cut<F> cut(s);
  const int group = task / cut.tiles.chunks, chunk = task % cut.tiles.chunks;
  const int first = cut.tiles.first(group), count = cut.tiles.first(group + 1) - first;

  std::int32_t* m = static_cast<std::int32_t*>(scratch);
  std::int16_t* u = static_cast<std::int16_t*>(scratch) + cut.m_words();
  const std::int16_t* v;
  if (cut.tiles.chunks == 1) {
    std::int16_t* own = u + cut.u_scratch();
    for (int t = 0; t < count; ++t) transform_tile(s, cut, run.input, first + t, own + t * cut.row);
    v = own;
  } else {
    v = static_cast<const std::int16_t*>(run.transformed) + group * cut.group_words();
  }

  const int end = cut.blocks * (chunk + 1) / cut.tiles.chunks;
  for (int block = cut.blocks * chunk / cut.tiles.chunks; block < end; ++block) {
    const std::int8_t* kept =
        static_cast<const std::int8_t*>(run.weights) + block * cut.block_bytes();
    if (cut.transformed) {
      multiply(cut, v, reinterpret_cast<const std::int16_t*>(kept), cut.u_plane(), cut.pairs, false,
               count, m);
    } else {
      const std::int16_t* of_part = v;
      for (int p = 0; p < cut.pairs; p += cut.part, of_part += cut.part_words()) {
        const int pairs = cut.pairs - p < cut.part ? cut.pairs - p : cut.part;
        transform_weights<F>(kept + p * kPairLevels, pairs, kPartPlane, u);
        multiply(cut, of_part, u, kPartPlane, pairs, p > 0, count, m);
      }
    }
    finish_tiles<F::kOut, kGroup, kMostPixels>(
        run, cut.tiles, first, count, block * kGroup, [&](int tile, std::int32_t* acc, int row) {
          transform_output<F>(m + tile * Cut<F>::kTileSums, acc, row);
        });
  }
}

template <class F>
constexpr ConvKernel winograd_words(const char* name) {
  return {name,           eligible<F>,        weight_bytes<F>,  prepare<F>, input_bytes<F>,
          input_tasks<F>, transform_input<F>, scratch_bytes<F>, tasks<F>,   run_task<F>,
          false};
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
