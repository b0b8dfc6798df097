// Depthwise convolution by rows (AVX-512 VNNI): VPDPBUSD multiplies four bytes of a channel and
// adds their products to its 32-bit sum. The four are those of up to four rows of the kernel in one
// column of the input, of which output pixels next to each other read the same:
//
//   column x     c0 c1 ..               interleaved: four bytes a channel
//     row y      a0 a1 ..                 | a0 b0 c0 d0 | a1 b1 c1 d1 | ..
//     row y + 1  b0 b1 ..               times the weights of the taps (kx, ky .. ky + 3)
//
// So eight instructions make the bytes of a column of 64 channels, for as many pixels as meet it,
// and four add up a column of taps, where 18 would for three taps one by one. Rows that the kernel
// lacks have weights of 0.
//
// Interleaving is within the 16 bytes of a register's parts, so the four vectors of sums of a block
// of 64 channels have these, i being the vector and p the part (of 32 channels two parts):
//
//   16 p + 4 i .. 16 p + 4 i + 3
//
// which packing to words and to bytes turns into the order of memory. Weights, int8:
// [block][four rows][column][vector][channel][row]. The last block has 32 channels where 32 are
// enough.
#pragma once

#include <cstring>

#include "epilogue.h"
#include "levels.h"
#include "ranks.h"
#include "register_bytes.h"
#include "thresholds.h"

#if defined(RSQUANT_TAP_ROWS)

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kRowsTogether = 4;  // of the kernel
constexpr int kRowBlock = 64;     // channels
constexpr int kRowTile = 4;       // pixels of a row that share columns
constexpr int kRowPixels = 16;    // whose sums wait for their thresholds
constexpr int kRowTaskPixels = 64;

// Registers of 64 channels, and of 32.
struct WholeBlock {
  static constexpr int kChannels = 64;
  typedef __m512i Vector;
  static Vector load(const void* from) { return _mm512_loadu_si512(from); }
  static void store(void* to, Vector v) { _mm512_storeu_si512(to, v); }
  static Vector low8(Vector a, Vector b) { return _mm512_unpacklo_epi8(a, b); }
  static Vector high8(Vector a, Vector b) { return _mm512_unpackhi_epi8(a, b); }
  static Vector low16(Vector a, Vector b) { return _mm512_unpacklo_epi16(a, b); }
  static Vector high16(Vector a, Vector b) { return _mm512_unpackhi_epi16(a, b); }
  static Vector dot(Vector sum, Vector a, Vector w) { return _mm512_dpbusd_epi32(sum, a, w); }
  static Vector words(Vector a, Vector b) { return _mm512_packs_epi32(a, b); }
  static Vector bytes(Vector a, Vector b) { return _mm512_packus_epi16(a, b); }
  static Vector step(Vector level, Vector a, Vector b, Vector by) {
    return _mm512_mask_add_epi16(level, _mm512_cmpgt_epi16_mask(a, b), level, by);
  }
  // 64 words of memory in the order of packed sums.
  static void tables(const std::int16_t* from, Vector* to) {
    const Vector a = load(from), b = load(from + 32);
    to[0] = _mm512_shuffle_i32x4(a, b, 0x88);
    to[1] = _mm512_shuffle_i32x4(a, b, 0xdd);
  }
  static void store_first(std::uint8_t* to, Vector v, int count) {
    _mm512_mask_storeu_epi8(to, (__mmask64{1} << count) - 1, v);
  }
  // Four vectors of sums in the order of memory.
  static void store_sums(std::int32_t* to, const Vector* sum) {
    const Vector a = _mm512_shuffle_i32x4(sum[0], sum[1], 0x44);
    const Vector b = _mm512_shuffle_i32x4(sum[2], sum[3], 0x44);
    const Vector c = _mm512_shuffle_i32x4(sum[0], sum[1], 0xee);
    const Vector d = _mm512_shuffle_i32x4(sum[2], sum[3], 0xee);
    store(to, _mm512_shuffle_i32x4(a, b, 0x88));
    store(to + 16, _mm512_shuffle_i32x4(a, b, 0xdd));
    store(to + 32, _mm512_shuffle_i32x4(c, d, 0x88));
    store(to + 48, _mm512_shuffle_i32x4(c, d, 0xdd));
  }
};

struct HalfBlock {
  static constexpr int kChannels = 32;
  typedef __m256i Vector;
  static Vector load(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
  }
  static void store(void* to, Vector v) { _mm256_storeu_si256(static_cast<__m256i*>(to), v); }
  static Vector low8(Vector a, Vector b) { return _mm256_unpacklo_epi8(a, b); }
  static Vector high8(Vector a, Vector b) { return _mm256_unpackhi_epi8(a, b); }
  static Vector low16(Vector a, Vector b) { return _mm256_unpacklo_epi16(a, b); }
  static Vector high16(Vector a, Vector b) { return _mm256_unpackhi_epi16(a, b); }
  static Vector dot(Vector sum, Vector a, Vector w) { return _mm256_dpbusd_epi32(sum, a, w); }
  static Vector words(Vector a, Vector b) { return _mm256_packs_epi32(a, b); }
  static Vector bytes(Vector a, Vector b) { return _mm256_packus_epi16(a, b); }
  static Vector step(Vector level, Vector a, Vector b, Vector by) {
    return _mm256_mask_add_epi16(level, _mm256_cmpgt_epi16_mask(a, b), level, by);
  }
  static void tables(const std::int16_t* from, Vector* to) {
    const Vector a = load(from), b = load(from + 16);
    to[0] = _mm256_permute2x128_si256(a, b, 0x20);
    to[1] = _mm256_permute2x128_si256(a, b, 0x31);
  }
  static void store_first(std::uint8_t* to, Vector v, int count) {
    _mm256_mask_storeu_epi8(to, static_cast<__mmask32>((std::uint64_t{1} << count) - 1), v);
  }
  static void store_sums(std::int32_t* to, const Vector* sum) {
    const Vector a = _mm256_permute2x128_si256(sum[0], sum[1], 0x20);
    const Vector b = _mm256_permute2x128_si256(sum[2], sum[3], 0x20);
    const Vector c = _mm256_permute2x128_si256(sum[0], sum[1], 0x31);
    const Vector d = _mm256_permute2x128_si256(sum[2], sum[3], 0x31);
    store(to, a), store(to + 8, b), store(to + 16, c), store(to + 24, d);
  }
};

// Not the sizes: weights are the same at all of them.
inline bool takes_rows(const ConvShape& s) {
  return (s.kernel_w == 3 || s.kernel_w == 5) && s.stride_w <= 2 && s.dilation_h == 1 &&
         s.dilation_w == 1;
}

inline int row_groups(const ConvShape& s) {
  return (s.kernel_h + kRowsTogether - 1) / kRowsTogether;
}
inline int row_blocks(const ConvShape& s) { return (s.out_channels + kRowBlock - 1) / kRowBlock; }
inline bool half_block(const ConvShape& s, int block) {
  return s.out_channels - block * kRowBlock <= kRowBlock / 2;
}
inline std::int64_t row_block_bytes(const ConvShape& s) {
  return std::int64_t{row_groups(s)} * s.kernel_w * kRowBlock * kRowsTogether;
}

void prepare_rows(const ConvShape& s, const ConvWeights& w, int block, std::int8_t* out) {
  std::memset(out, 0, static_cast<std::size_t>(row_block_bytes(s)));
  const int taps = s.kernel_h * s.kernel_w, channels = half_block(s, block) ? 32 : 64;
  const int vector = channels * kRowsTogether / 4;  // bytes
  for (int j = 0; j < channels && block * kRowBlock + j < s.out_channels; ++j) {
    const int place = j % 16 / 4 * vector + (j / 16 * 4 + j % 4) * kRowsTogether;
    for (int i = 0; i < taps; i += 32) {
      std::int8_t levels[32];
      levels_at(s, w, block * kRowBlock + j, i, taps, levels);
      for (int k = i; k < i + 32 && k < taps; ++k) {
        const int row = k / s.kernel_w, column = k % s.kernel_w;
        const int at = (row / kRowsTogether * s.kernel_w + column) * 4 * vector;
        out[at + place + row % kRowsTogether] = levels[k - i];
      }
    }
  }
}

// Where a tile reads: the first byte of its first pixel's window.
struct RowWindow {
  const std::uint8_t* first;
  std::int64_t row, pixel;  // bytes
  int kernel_h;
};

// The sums of P pixels next to each other.
template <class Block, int kWidth, int kStride, int P>
[[gnu::always_inline]] inline void add_rows(const RowWindow& window, const std::int8_t* weights,
                                            typename Block::Vector (&sum)[P][4]) {
  typedef typename Block::Vector Vector;
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sum[p][i] = Vector{};
  }
  const std::uint8_t* first = window.first;
  for (int left = window.kernel_h; left > 0; left -= kRowsTogether) {
    const std::uint8_t* at[kRowsTogether];
    for (int r = 0; r < kRowsTogether; ++r) at[r] = first + (r < left ? r : left - 1) * window.row;
#pragma GCC unroll 11
    for (int column = 0; column < (P - 1) * kStride + kWidth; ++column) {
      Vector byte[kRowsTogether];
#pragma GCC unroll 4
      for (int r = 0; r < kRowsTogether; ++r) {
        byte[r] = Block::load(at[r]);
        at[r] += window.pixel;
      }
      const Vector two[4] = {Block::low8(byte[0], byte[1]), Block::high8(byte[0], byte[1]),
                             Block::low8(byte[2], byte[3]), Block::high8(byte[2], byte[3])};
      const Vector four[4] = {Block::low16(two[0], two[2]), Block::high16(two[0], two[2]),
                              Block::low16(two[1], two[3]), Block::high16(two[1], two[3])};
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        const int tap = column - p * kStride;
        if (tap < 0 || tap >= kWidth) continue;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const Vector w = Block::load(weights + (tap * 4 + i) * Block::kChannels);
          sum[p][i] = Block::dot(sum[p][i], four[i], w);
        }
      }
    }
    first += kRowsTogether * window.row;
    weights += kWidth * 4 * Block::kChannels;
  }
}

// To words, [pixel][channel] in the order of packed sums, or to accumulators.
template <class Block, int kWidth, int kStride, int P>
[[gnu::noinline]] void row_words(const RowWindow& window, const std::int8_t* weights,
                                 std::int16_t* words) {
  typename Block::Vector sum[P][4];
  add_rows<Block, kWidth, kStride, P>(window, weights, sum);
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p, words += Block::kChannels) {
    Block::store(words, Block::words(sum[p][0], sum[p][1]));
    Block::store(words + Block::kChannels / 2, Block::words(sum[p][2], sum[p][3]));
  }
}
template <class Block, int kWidth, int kStride, int P>
[[gnu::noinline]] void row_sums(const RowWindow& window, const std::int8_t* weights,
                                std::int32_t* acc) {
  typename Block::Vector sum[P][4];
  add_rows<Block, kWidth, kStride, P>(window, weights, sum);
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) Block::store_sums(acc + p * kRowBlock, sum[p]);
}

// Levels of `count` pixels, `exist` channels of which are written. tables: of the block's first
// channel.
template <class Block, int T>
[[gnu::noinline]] void row_levels(const std::int16_t* tables, std::int64_t padded,
                                  const std::int16_t* words, int count, int exist,
                                  std::uint8_t* codes, std::int64_t codes_pixel) {
  typedef typename Block::Vector Vector;
  Vector threshold[T][2], step[T][2], base[2];
  for (int k = 0; k < T; ++k) {
    Block::tables(tables + k * padded, threshold[k]);
    Block::tables(tables + (T + k) * padded, step[k]);
  }
  Block::tables(tables + 2 * T * padded, base);
  for (; count > 0; --count, words += Block::kChannels, codes += codes_pixel) {
    Vector level[2];
    for (int i = 0; i < 2; ++i) {
      const Vector word = Block::load(words + i * Block::kChannels / 2);
      level[i] = base[i];
#pragma GCC unroll 15
      for (int k = 0; k < T; ++k) {
        level[i] = Block::step(level[i], word, threshold[k][i], step[k][i]);
      }
    }
    const Vector bytes = Block::bytes(level[0], level[1]);
    if (exist >= Block::kChannels) {
      Block::store(codes, bytes);
    } else {
      Block::store_first(codes, bytes, exist);
    }
  }
}

#if defined(RSQUANT_WIDE_BYTES)
// The same of 15 thresholds, which are in order. Of a half block the words of a pixel are one
// register.
template <class Block>
[[gnu::noinline]] void row_ranks(const WordLevels& levels, int channel, const std::int16_t* words,
                                 int count, int exist, std::uint8_t* codes,
                                 std::int64_t codes_pixel) {
  constexpr bool kWhole = Block::kChannels == kRowBlock;
  constexpr int kTables = kWhole ? 2 : 1;
  Ints threshold[kMaxThresholds][kTables];
  for (int k = 0; k < kMaxThresholds; ++k) {
    const std::int16_t* from = levels.tables + k * levels.padded + channel;
    if constexpr (kWhole) {
      Block::tables(from, threshold[k]);
    } else {
      const Ints all = load(from);
      threshold[k][0] = _mm512_shuffle_i32x4(all, all, 0xd8);
    }
  }
  const RankBytes ranks = rank_bytes(levels.ranks, channel, RegisterBytes<Block::kChannels>::table);
  for (; count > 0; --count, words += Block::kChannels, codes += codes_pixel) {
    Ints passed[kTables];
    for (int i = 0; i < kTables; ++i) {
      passed[i] = passed_of_15<Words16>(load(words + i * 2 * kLanes),
                                        [&](int k) { return threshold[k][i]; });
    }
    if constexpr (kWhole) {
      const Ints bytes = ranks.levels(Block::bytes(passed[0], passed[1]));
      if (exist >= Block::kChannels) {
        Block::store(codes, bytes);
      } else {
        Block::store_first(codes, bytes, exist);
      }
    } else {
      const __m256i packed =
          Block::bytes(_mm512_castsi512_si256(passed[0]), _mm512_extracti64x4_epi64(passed[0], 1));
      const __m256i bytes = _mm512_castsi512_si256(ranks.levels(_mm512_castsi256_si512(packed)));
      if (exist >= Block::kChannels) {
        Block::store(codes, bytes);
      } else {
        Block::store_first(codes, bytes, exist);
      }
    }
  }
}
#endif

template <class Block>
inline void row_levels_any(const Epilogue& e, int channel, const std::int16_t* words, int count,
                           int exist, std::uint8_t* codes) {
  as_compiled(e.thresholds, [&]<int T>() {
#if defined(RSQUANT_WIDE_BYTES)
    if constexpr (T == kMaxThresholds) {
      row_ranks<Block>(e.words, channel, words, count, exist, codes, e.codes_pixel);
    } else
#endif
      row_levels<Block, T>(e.words.tables + channel, e.words.padded, words, count, exist, codes,
                           e.codes_pixel);
  });
}

// The functions of a kernel's width and stride, by how many pixels they take.
template <class To>
using RowTile = void (*)(const RowWindow&, const std::int8_t*, To*);

template <class Block, class To, int kWidth, int kStride>
inline RowTile<To> row_tile_of(int pixels) {
  if constexpr (sizeof(To) == 2) {
    return pixels == 1 ? row_words<Block, kWidth, 1, 1>
                       : row_words<Block, kWidth, kStride, kRowTile>;
  } else {
    return pixels == 1 ? row_sums<Block, kWidth, 1, 1> : row_sums<Block, kWidth, kStride, kRowTile>;
  }
}
template <class Block, class To>
inline RowTile<To> row_tile(const ConvShape& s, int pixels) {
  if (s.kernel_w == 3) {
    return s.stride_w == 1 ? row_tile_of<Block, To, 3, 1>(pixels)
                           : row_tile_of<Block, To, 3, 2>(pixels);
  }
  return s.stride_w == 1 ? row_tile_of<Block, To, 5, 1>(pixels)
                         : row_tile_of<Block, To, 5, 2>(pixels);
}

// A block of channels of output row y.
template <class Block>
void run_row(const ConvRun& run, bool words, int block, const std::int8_t* weights, int y) {
  const ConvShape& s = run.shape;
  const Epilogue& e = run.epilogue;
  const int channel = block * kRowBlock, exist = s.out_channels - channel;
  // A tile that would not be whole takes pixels of the one before it again; short rows have tiles
  // of one pixel.
  const int tile = s.out_w < kRowTile ? 1 : kRowTile;
  alignas(64) std::int16_t room[kRowPixels * kRowBlock];
  alignas(64) std::int32_t acc[kRowPixels * kRowBlock];
  const RowTile<std::int16_t> to_words = row_tile<Block, std::int16_t>(s, tile);
  const RowTile<std::int32_t> to_sums = row_tile<Block, std::int32_t>(s, tile);
  RowWindow window = {nullptr, row_bytes(s), s.pixel_bytes, s.kernel_h};
  const std::uint8_t* row = run.input + window_offset(s, y, 0) + channel;
  const std::int64_t across = static_cast<std::int64_t>(s.stride_w) * s.pixel_bytes;
  // Pixels whose sums are there, the first whose are kept, and the first that is not finished.
  int done = 0, begin = 0, fresh = 0;
  while (done < s.out_w) {
    const int x = done + tile <= s.out_w ? done : s.out_w - tile;
    if (fresh == done) begin = x;
    window.first = row + x * across;
    if (words) {
      to_words(window, weights, room + (x - begin) * Block::kChannels);
    } else {
      to_sums(window, weights, acc + (x - begin) * kRowBlock);
    }
    done = x + tile;
    if (done < s.out_w && done + tile - begin <= kRowPixels) continue;
    const int count = done - fresh, at = fresh - begin;
    if (words) {
      row_levels_any<Block>(e, channel, room + at * Block::kChannels, count, exist,
                            e.codes + y * e.codes_row + fresh * e.codes_pixel + channel);
    } else {
      finish_channels(e, s, acc + at * kRowBlock, kRowBlock, count, y, fresh, channel,
                      Block::kChannels, s.out_channels);
    }
    fresh = done;
  }
}

inline int rows_of_task(const ConvShape& s) {
  return s.out_w < kRowTaskPixels ? kRowTaskPixels / s.out_w : 1;
}

// With prepared weights a task is some rows and all channels, else a block.
inline int row_tasks(const ConvShape& s, bool prepared) {
  const int rows = rows_of_task(s);
  return prepared ? (s.out_h + rows - 1) / rows : row_blocks(s);
}

void run_rows(const ConvRun& run, bool words, int task, std::int8_t* scratch) {
  const ConvShape& s = run.shape;
  const std::int8_t* weights = static_cast<const std::int8_t*>(run.weights);
  int y = 0, end = s.out_h, first = 0, last = row_blocks(s);
  int skip = 0;  // blocks before those in `weights`
  if (weights != nullptr) {
    y = task * rows_of_task(s);
    if (y + rows_of_task(s) < end) end = y + rows_of_task(s);
  } else {
    first = skip = task, last = task + 1;
    prepare_rows(s, run.source, task, scratch);
    weights = scratch;
  }
  for (; y < end; ++y) {
    for (int block = first; block < last; ++block) {
      const std::int8_t* own = weights + (block - skip) * row_block_bytes(s);
      if (half_block(s, block)) {
        run_row<HalfBlock>(run, words, block, own, y);
      } else {
        run_row<WholeBlock>(run, words, block, own, y);
      }
    }
  }
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
