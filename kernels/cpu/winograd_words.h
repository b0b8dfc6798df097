// Winograd's convolution in 16-bit words, F(4x4, 3x3) and F(6x6, 3x3), exact (AVX2).
//
// VPMADDWD multiplies half as many numbers as the VPMADDUBSW of the direct convolution, but F4 needs
// 4 times fewer products and F6 5.06 times fewer, so the bounds are 2 and 2.5 times that of the
// direct convolution. winograd_transforms.h derives the arithmetic.
//
//   input     tiles of kIn x kIn pixels, kOut apart    -> v[position][tile][channel]   int16
//   weights   3 x 3 levels per (output, input channel) -> u[position][pair of channels][output][2]
//   products  m[tile][position][output] = sum over channels of v u, a small matrix product for each
//             of the kIn^2 positions
//   output    m -> kOut x kOut accumulators -> epilogue
//
// A task is a group of tiles times some blocks of 16 output channels. Sums of 6 tiles x 16 channels
// fill 12 of the 16 registers; a pair of input channels of one tile is broadcast from memory, so
// nothing is summed across lanes.
//
// Tiles that reach over the edge of the input read its last row or column again: those values
// meet only outputs that do not exist (the others do not depend on them, the arithmetic being exact).
//
// Where the weights live. The u of a layer take 72 (F4) or 128 (F6) bytes per 9 levels: 19 MB for
// 512 x 512 channels, which come from memory slower than they are used. Up to kMostPrepared they
// are kept as they are; beyond it the levels are kept as int8, and each task transforms those of 128
// input channels and 16 output channels into its scratch, where they meet all tiles of the group.
#pragma once

#include <cstring>

#include "epilogue.h"
#include "winograd_transforms.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kStrip = 6;        // tiles whose sums stay in registers
constexpr int kMostTiles = 24;   // of a group: their sums take 55 KB (F4) or 98 KB (F6)
#ifndef KPART
#define KPART 32
#endif
constexpr int kPart = KPART;        // pairs of input channels whose weights are transformed together
constexpr int kPairWords = 2 * kGroup;   // u of a pair of input channels and a block
constexpr int kPartPlane = kPart * kPairWords + 32;
constexpr int kPairLevels = 9 * kPairWords;
#ifndef MOSTV
#define MOSTV (128 << 10)
#endif
#ifndef MOSTP
#define MOSTP (2 << 20)
#endif
constexpr std::int64_t kMostInput = MOSTV;  // bytes of v of a group, of the second-level cache
constexpr std::int64_t kMostPrepared = MOSTP;

inline int ceil_divide(int n, int by) { return (n + by - 1) / by; }

// How a convolution is cut up.
template <class F>
struct Cut {
  static constexpr int kPositions = F::kIn * F::kIn;
  static constexpr int kTileSums = kPositions * kGroup;

  int tiles_x, tiles;
  int groups, most;       // groups of tiles, and most tiles of one
  int pairs;              // of input channels, filled up to a multiple of 4 channels
  int part;               // pairs of a part
  int row;                // words from tile to tile of v of a part
  int plane;              // words from position to position of v of a part
  int blocks;             // of 16 output channels
  int chunks;             // parts of the blocks; 1: a task transforms the input it needs by itself
  bool transformed;       // whether prepared weights are u, not levels

  explicit Cut(const ConvShape& s) {
    tiles_x = ceil_divide(s.out_w, F::kOut);
    tiles = tiles_x * ceil_divide(s.out_h, F::kOut);
    pairs = s.pixel_bytes / 2;
    blocks = ceil_divide(s.out_channels, kGroup);
    transformed = u_bytes() * blocks <= kMostPrepared;
    part = transformed || pairs < kPart ? pairs : kPart;
    row = ceil_divide(part, 8) * 16;
    int fit = kMostTiles;
    // Untransformed weights cost the less, the more tiles they meet.
    if (transformed && fit * tile_bytes() > kMostInput) {
      fit = static_cast<int>(kMostInput / tile_bytes()) / kStrip * kStrip;
      if (fit < kStrip) fit = kStrip;
    }
    groups = ceil_divide(tiles, fit);
    most = ceil_divide(tiles, groups);
    plane = most * row + 32;  // planes a multiple of 4,096 bytes apart would share cache lines
    // With few groups, several tasks share a group, so its input is transformed beforehand.
    constexpr int kEnough = 8;
    chunks = groups >= kEnough ? 1 : ceil_divide(2 * kEnough, groups);
    if (chunks > blocks) chunks = blocks;
  }

  int first_tile(int group) const {
    return static_cast<int>(static_cast<std::int64_t>(tiles) * group / groups);
  }
  int parts() const { return ceil_divide(pairs, part); }
  std::int64_t tile_bytes() const { return std::int64_t{kPositions} * row * parts() * 2; }
  std::int64_t v_part_words() const { return std::int64_t{kPositions} * plane; }
  std::int64_t group_words() const { return v_part_words() * parts(); }
  // Of one block:
  std::int64_t u_plane() const { return static_cast<std::int64_t>(pairs) * kPairWords; }
  std::int64_t u_bytes() const { return kPositions * u_plane() * 2; }
  std::int64_t level_bytes() const { return static_cast<std::int64_t>(pairs) * kPairLevels; }
  std::int64_t block_bytes() const { return transformed ? u_bytes() : level_bytes(); }
  std::int64_t part_words() const { return transformed ? 0 : kPositions * kPartPlane; }
  std::int64_t sum_bytes() const { return static_cast<std::int64_t>(most) * kTileSums * 4; }
};

template <class F>
bool eligible(const ConvShape& s) {
  return s.kernel_h == 3 && s.kernel_w == 3 && s.stride_h == 1 && s.stride_w == 1 &&
         s.dilation_h == 1 && s.dilation_w == 1 && s.groups == 1 &&
         F::kInputGrowth * s.input_limit <= 32767 && s.weight_limit <= 127 &&
         std::int64_t{9} * s.in_channels * s.input_limit * s.weight_limit < (1 << 25);
}

// --- Weights ---

// 32 levels of output channel o, from flat tap i on (a multiple of 32) of n.
inline void levels_at(const ConvShape& s, const ConvWeights& w, int o, std::int64_t i,
                      std::int64_t n, std::int8_t* out) {
  if (w.levels != nullptr) {
    std::memcpy(out, w.levels + o * n + i, static_cast<std::size_t>(n - i < 32 ? n - i : 32));
    return;
  }
  int lowest = 0;
  std::int8_t twice[4];
  std::uint32_t planes[4];
  for (int k = 0; k < w.bits; ++k) {
    const std::int8_t p = w.basis[o * w.bits + k];
    lowest -= p;
    twice[k] = static_cast<std::int8_t>(2 * p);
    const std::int64_t row = static_cast<std::int64_t>(k) * s.out_channels + o;
    std::memcpy(&planes[k], w.planes + row * w.plane_bytes + i / 8, 4);
  }
  decode32(planes, w.bits, static_cast<std::int8_t>(lowest), twice, out);
}

// Levels of one block in the order in which they are transformed:
// [pair of input channels][half of the outputs][tap][output][channel of the pair].
inline void gather_levels(const ConvShape& s, const ConvWeights& w, int block, std::int8_t* out) {
  std::memset(out, 0, static_cast<std::size_t>(s.pixel_bytes / 2) * kPairLevels);
  const std::int64_t n = std::int64_t{9} * s.in_channels;
  for (int o = 0; o < kGroup && block * kGroup + o < s.out_channels; ++o) {
    std::int8_t* at = out + o / 8 * (kPairLevels / 2) + o % 8 * 2;
    int tap = 0, channel = 0;
    for (std::int64_t i = 0; i < n; i += 32) {
      std::int8_t levels[32];
      levels_at(s, w, block * kGroup + o, i, n, levels);
      for (int k = 0; k < 32 && i + k < n; ++k) {
        at[channel / 2 * kPairLevels + tap * 16 + channel % 2] = levels[k];
        if (++channel == s.in_channels) channel = 0, ++tap;
      }
    }
  }
}

// u of `pairs` pairs; `plane` words from position to position.
template <class F>
void transform_weights(const std::int8_t* levels, int pairs, std::int64_t plane, std::int16_t* u) {
  for (int half = 0; half < 2 * pairs; ++half) {
    Words t[3][F::kIn];
    for (int i = 0; i < 3; ++i) {
      Words w[3];
      for (int j = 0; j < 3; ++j) {
        w[j] = _mm256_cvtepi8_epi16(_mm_loadu_si128(
            reinterpret_cast<const __m128i*>(levels + (i * 3 + j) * 16)));
      }
      F::weight(w, t[i]);
    }
    for (int j = 0; j < F::kIn; ++j) {
      const Words w[3] = {t[0][j], t[1][j], t[2][j]};
      Words column[F::kIn];
      F::weight(w, column);
#pragma GCC unroll 8
      for (int i = 0; i < F::kIn; ++i) {
        _mm256_store_si256(reinterpret_cast<Words*>(u + (i * F::kIn + j) * plane), column[i]);
      }
    }
    levels += kPairLevels / 2;
    u += kPairWords / 2;
  }
}

template <class F>
std::size_t weight_bytes(const ConvShape& s) {
  const Cut<F> cut(s);
  // While weights are prepared, levels of one block lie behind them.
  return static_cast<std::size_t>(cut.block_bytes() * cut.blocks +
                                  (cut.transformed ? cut.level_bytes() : 0));
}

template <class F>
void prepare(const ConvShape& s, const ConvWeights& w, void* out) {
  const Cut<F> cut(s);
  std::int8_t* to = static_cast<std::int8_t*>(out);
  std::int8_t* levels = to + cut.block_bytes() * cut.blocks;
  for (int block = 0; block < cut.blocks; ++block, to += cut.block_bytes()) {
    gather_levels(s, w, block, cut.transformed ? levels : to);
    if (cut.transformed) {
      transform_weights<F>(levels, cut.pairs, cut.u_plane(), reinterpret_cast<std::int16_t*>(to));
    }
  }
}

// --- Input ---

template <class F>
void transform_tile(const ConvShape& s, const Cut<F>& cut, const std::uint8_t* input, int tile,
                    std::int16_t* v) {
  const int y = tile / cut.tiles_x * F::kOut, x = tile % cut.tiles_x * F::kOut;
  const std::uint8_t* corner = input + window_offset(s, 0, 0);
  std::int64_t rows[F::kIn], columns[F::kIn];
  for (int i = 0; i < F::kIn; ++i) {
    const int last_y = s.out_h + 1, last_x = s.out_w + 1;
    rows[i] = (y + i < last_y ? y + i : last_y) * row_bytes(s);
    columns[i] = static_cast<std::int64_t>(x + i < last_x ? x + i : last_x) * s.pixel_bytes;
  }
  for (int c = 0; c < s.in_channels; c += 16) {
    Words t[F::kIn][F::kIn];
    for (int j = 0; j < F::kIn; ++j) {
      Words from[F::kIn], to[F::kIn];
#pragma GCC unroll 8
      for (int i = 0; i < F::kIn; ++i) {
        from[i] = _mm256_cvtepu8_epi16(_mm_loadu_si128(
            reinterpret_cast<const __m128i*>(corner + rows[i] + columns[j] + c)));
      }
      F::input(from, to);
#pragma GCC unroll 8
      for (int i = 0; i < F::kIn; ++i) t[i][j] = to[i];
    }
    for (int i = 0; i < F::kIn; ++i) {
      Words to[F::kIn];
      F::input(t[i], to);
      std::int16_t* at = v + c / (2 * cut.part) * cut.v_part_words() + c % (2 * cut.part) +
                         static_cast<std::int64_t>(i) * F::kIn * cut.plane;
#pragma GCC unroll 8
      for (int j = 0; j < F::kIn; ++j) {
        _mm256_store_si256(reinterpret_cast<Words*>(at + static_cast<std::int64_t>(j) * cut.plane),
                           to[j]);
      }
    }
  }
}

template <class F>
std::size_t input_bytes(const ConvShape& s) {
  const Cut<F> cut(s);
  return cut.chunks == 1 ? 0 : static_cast<std::size_t>(cut.group_words() * cut.groups * 2);
}

template <class F>
int input_tasks(const ConvShape& s) {
  const Cut<F> cut(s);
  return cut.chunks == 1 ? 0 : cut.tiles;
}

template <class F>
void transform_input(const ConvShape& s, const std::uint8_t* input, void* out, int tile) {
  const Cut<F> cut(s);
  int group = 0;
  while (tile >= cut.first_tile(group + 1)) ++group;
  const std::int64_t at = group * cut.group_words() +
                          static_cast<std::int64_t>(tile - cut.first_tile(group)) * cut.row;
  transform_tile(s, cut, input, tile, static_cast<std::int16_t*>(out) + at);
}

// --- Products ---

// m[t] = (more ? m[t] : 0) + sum over pairs of v[t] u, for T tiles and 16 output channels.
template <int T>
inline void multiply_strip(const std::int16_t* v, std::int64_t row, const std::int16_t* u,
                           int pairs, bool more, std::int32_t* m, int tile_sums) {
  Words sum[T][2];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    sum[t][0] = sum[t][1] = _mm256_setzero_si256();
    if (more) {
      sum[t][0] = _mm256_load_si256(reinterpret_cast<const Words*>(m + t * tile_sums));
      sum[t][1] = _mm256_load_si256(reinterpret_cast<const Words*>(m + t * tile_sums + 8));
    }
  }
  const std::int16_t* v3 = v + 3 * row;  // so that all tiles are at v or v3 plus 0, 1 or 2 rows
#pragma GCC unroll 1
  for (int p = 0; p < pairs; ++p) {
    const Words u0 = _mm256_load_si256(reinterpret_cast<const Words*>(u));
    const Words u1 = _mm256_load_si256(reinterpret_cast<const Words*>(u + 16));
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
    _mm256_store_si256(reinterpret_cast<Words*>(m + t * tile_sums), sum[t][0]);
    _mm256_store_si256(reinterpret_cast<Words*>(m + t * tile_sums + 8), sum[t][1]);
  }
}

// All positions of `tiles` tiles and `pairs` pairs; u: `plane` words from position to position.
template <class F>
void multiply(const Cut<F>& cut, const std::int16_t* v, const std::int16_t* u, std::int64_t plane,
              int pairs, bool more, int tiles, std::int32_t* m) {
  constexpr int kSums = Cut<F>::kTileSums;
  for (int position = 0; position < Cut<F>::kPositions; ++position) {
    int first = 0;
    for (int strips = ceil_divide(tiles, kStrip); strips > 0; --strips) {
      const int count = ceil_divide(tiles - first, strips);  // strips of nearly the same size
      const std::int16_t* from = v + static_cast<std::int64_t>(first) * cut.row;
      std::int32_t* to = m + first * kSums + position * kGroup;
      switch (count) {
        case 1: multiply_strip<1>(from, cut.row, u, pairs, more, to, kSums); break;
        case 2: multiply_strip<2>(from, cut.row, u, pairs, more, to, kSums); break;
        case 3: multiply_strip<3>(from, cut.row, u, pairs, more, to, kSums); break;
        case 4: multiply_strip<4>(from, cut.row, u, pairs, more, to, kSums); break;
        case 5: multiply_strip<5>(from, cut.row, u, pairs, more, to, kSums); break;
        case 6: multiply_strip<6>(from, cut.row, u, pairs, more, to, kSums); break;
      }
      first += count;
    }
    v += cut.plane;
    u += plane;
  }
}

// --- Output ---

// Accumulators of one tile: 16 channels of a pixel together, `row` accumulators from row to row.
template <class F>
inline void transform_output(const std::int32_t* m, std::int32_t* acc, int row) {
  for (int half = 0; half < kGroup; half += 8) {
    Words t[F::kOut][F::kIn];
    for (int j = 0; j < F::kIn; ++j) {
      Words from[F::kIn], to[F::kOut];
#pragma GCC unroll 8
      for (int i = 0; i < F::kIn; ++i) {
        from[i] = _mm256_load_si256(
            reinterpret_cast<const Words*>(m + (i * F::kIn + j) * kGroup + half));
      }
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
        const Words power = times32(y[j], static_cast<int>(F::kInverse));
        _mm256_store_si256(reinterpret_cast<Words*>(acc + i * row + j * kGroup + half),
                           _mm256_srai_epi32(power, F::kShift[i] + F::kShift[j]));
      }
    }
  }
}

// Output and epilogue of `count` tiles from `first` on. Tiles beside each other go through the
// epilogue together, as many as it takes.
template <class F>
void finish_tiles(const ConvRun& run, const Cut<F>& cut, int first, int count, int channel,
                  const std::int32_t* m) {
  constexpr int kBeside = kMostPixels / F::kOut, kRow = kBeside * F::kOut * kGroup;
  const ConvShape& s = run.shape;
  for (int t = 0; t < count;) {
    const int y = (first + t) / cut.tiles_x * F::kOut, tile_x = (first + t) % cut.tiles_x;
    int beside = cut.tiles_x - tile_x < kBeside ? cut.tiles_x - tile_x : kBeside;
    if (beside > count - t) beside = count - t;
    alignas(64) std::int32_t acc[F::kOut * kRow];
    for (int i = 0; i < beside; ++i) {
      transform_output<F>(m + (t + i) * Cut<F>::kTileSums, acc + i * F::kOut * kGroup, kRow);
    }
    const int x = tile_x * F::kOut, width = beside * F::kOut;
    const int pixels = s.out_w - x < width ? s.out_w - x : width;
    for (int i = 0; i < F::kOut && y + i < s.out_h; ++i) {
      finish(run.epilogue, s, acc + i * kRow, kGroup, pixels, y + i, x, channel, s.out_channels);
    }
    t += beside;
  }
}

// --- Tasks ---

// Scratch: m, then u of a part where weights are kept as levels, then v where the task transforms
// its input.
template <class F>
std::size_t scratch_bytes(const ConvShape& s, bool) {
  const Cut<F> cut(s);
  return static_cast<std::size_t>(cut.sum_bytes() + cut.part_words() * 2 +
                                  (cut.chunks == 1 ? cut.group_words() * 2 : 0));
}

template <class F>
int tasks(const ConvShape& s, bool) {
  const Cut<F> cut(s);
  return cut.groups * cut.chunks;
}

template <class F>
void run(const ConvRun& r, int task, void* scratch) {
  const ConvShape& s = r.shape;
  const Cut<F> cut(s);
  const int group = task / cut.chunks, chunk = task % cut.chunks;
  const int first = cut.first_tile(group), count = cut.first_tile(group + 1) - first;

  std::int32_t* m = static_cast<std::int32_t*>(scratch);
  std::int16_t* u = reinterpret_cast<std::int16_t*>(m + cut.sum_bytes() / 4);
  std::int16_t* own = u + cut.part_words();
  const std::int16_t* v = static_cast<const std::int16_t*>(r.transformed) + group * cut.group_words();
  if (cut.chunks == 1) {
    for (int t = 0; t < count; ++t) {
      transform_tile(s, cut, r.input, first + t, own + static_cast<std::int64_t>(t) * cut.row);
    }
    v = own;
  }

  for (int b = cut.blocks * chunk / cut.chunks; b < cut.blocks * (chunk + 1) / cut.chunks; ++b) {
    const std::int8_t* weights = static_cast<const std::int8_t*>(r.weights) + b * cut.block_bytes();
    if (cut.transformed) {
      multiply(cut, v, reinterpret_cast<const std::int16_t*>(weights), cut.u_plane(), cut.pairs,
               false, count, m);
    } else {
      for (int p = 0; p < cut.pairs; p += cut.part) {
        const int some = cut.pairs - p < cut.part ? cut.pairs - p : cut.part;
        transform_weights<F>(weights + static_cast<std::int64_t>(p) * kPairLevels, some, kPartPlane,
                             u);
        multiply(cut, v + p / cut.part * cut.v_part_words(), u, kPartPlane, some, p > 0, count, m);
      }
    }
    finish_tiles(r, cut, first, count, b * kGroup, m);
  }
}

template <class F>
constexpr ConvKernel kernel_of(const char* name) {
  return {name,         eligible<F>,        weight_bytes<F>,  prepare<F>, input_bytes<F>,
          input_tasks<F>, transform_input<F>, scratch_bytes<F>, tasks<F>,   run<F>,
          false};
}

}  // namespace

extern const ConvKernel winograd4;
extern const ConvKernel winograd6;

const ConvKernel winograd4 = kernel_of<F4>("winograd4");
const ConvKernel winograd6 = kernel_of<F6>("winograd6");

}  // namespace RSQUANT_ISA
}  // namespace rsquant
