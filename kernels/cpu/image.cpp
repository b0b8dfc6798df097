// The convolution of the image: direct, in 16-bit words, over three channels instead of four.
//
// The fourth channel is 255 inside the image and 0 outside (conv.h), so its part of an accumulator
// depends on nothing but which taps lie inside. Those are kernel rows [top, bottom) and columns
// [left, right), and with the sums
//
//   S[i][j] = 255 * sum over ky < i, kx < j of weight[ky][kx][3]
//
// its part is  S[bottom][right] - S[top][right] - S[bottom][left] + S[top][left].  All S of an
// output channel are prepared, so they serve every size of the image; away from the border the
// part is S[kernel_h][kernel_w]. None of these sums is larger than 255 * sum |weight|, which fits
// 32 bits.
//
// The input is rewritten as words R, G, B, R, G, B, ...; a run of the loop is a kernel row, 3
// kernel_w words, and where that is odd one more with weights 0: 7 x 7 taps are 77 steps, not 98.

#include <cstring>

#include "direct_tile.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kColors = 3;

// Not std::min: see the warning in kernels.h.
inline int least(int a, int b) { return a < b ? a : b; }

// Steps of two words under a kernel row.
inline int steps_of(const ConvShape& s) { return (s.kernel_w * kColors + 1) / 2; }

// Words of an input row, one behind the last pixel included: an odd run reads it.
inline std::int64_t row_words(const ConvShape& s) {
  return (static_cast<std::int64_t>(s.in_w + 2 * s.border) * kColors + 2) / 2 * 2;
}

bool eligible(const ConvShape& s) {
  return s.groups == 1 && s.in_channels == kColors + 1 && s.input_limit == 255 &&
         s.weight_bits == 0 && s.dilation_h == 1 && s.dilation_w == 1 && s.pad_h < s.kernel_h &&
         s.pad_w < s.kernel_w;
}

// --- Weights ---

// A block of kBlock output channels, in 32-bit units: [ky][step][channel] pairs of weights, then
// S as [i][j][channel].
inline std::int64_t pairs(const ConvShape& s) {
  return static_cast<std::int64_t>(s.kernel_h) * steps_of(s) * kBlock;
}
inline std::int64_t block_units(const ConvShape& s) {
  return pairs(s) + static_cast<std::int64_t>(s.kernel_h + 1) * (s.kernel_w + 1) * kBlock;
}

inline int blocks_of(const ConvShape& s) { return (s.out_channels + kBlock - 1) / kBlock; }

void prepare_block(const ConvShape& s, const ConvWeights& w, int block, std::int32_t* out) {
  std::memset(out, 0, static_cast<std::size_t>(block_units(s)) * sizeof(*out));
  const int line = (s.kernel_w + 1) * kBlock;  // of S
  const int first = block * kBlock, exist = least(kBlock, s.out_channels - first);
  const std::int16_t* from =
      w.words + static_cast<std::int64_t>(first) * s.kernel_h * s.kernel_w * (kColors + 1);
  for (int o = 0; o < exist; ++o) {
    for (int ky = 0; ky < s.kernel_h; ++ky) {
      std::int32_t* run = out + static_cast<std::int64_t>(ky) * steps_of(s) * kBlock + o;
      std::int32_t* above = out + pairs(s) + static_cast<std::int64_t>(ky) * line + o;
      std::int32_t sum = 0;
      for (int kx = 0; kx < s.kernel_w; ++kx, from += kColors + 1) {
        for (int c = 0; c < kColors; ++c) {
          const int i = kx * kColors + c;
          std::memcpy(reinterpret_cast<std::int16_t*>(run + i / 2 * kBlock) + i % 2, from + c, 2);
        }
        sum += 255 * from[kColors];
        above += kBlock;
        above[line] = above[0] + sum;
      }
    }
  }
}

std::size_t weight_bytes(const ConvShape& s) {
  return static_cast<std::size_t>(block_units(s)) * blocks_of(s) * sizeof(std::int32_t);
}

void prepare(const ConvShape& s, const ConvWeights& w, void* out) {
  for (int block = 0; block < blocks_of(s); ++block) {
    prepare_block(s, w, block, static_cast<std::int32_t*>(out) + block * block_units(s));
  }
}

// --- Input ---

std::size_t input_bytes(const ConvShape& s) {
  return static_cast<std::size_t>((s.in_h + 2 * s.border) * row_words(s)) * sizeof(std::int16_t);
}

int input_rows(const ConvShape& s) { return s.in_h + 2 * s.border; }

void to_words(const ConvShape& s, const std::uint8_t* input, void* out, int row) {
  const std::uint8_t* in = input + row * row_bytes(s);
  std::int16_t* words = static_cast<std::int16_t*>(out) + row * row_words(s);
  const int width = s.in_w + 2 * s.border;
  for (int x = 0; x < width; ++x) {
    for (int c = 0; c < kColors; ++c) words[kColors * x + c] = in[(kColors + 1) * x + c];
  }
  words[kColors * width] = 0;
}

// --- The kernel ---

// Kernel rows or columns [first, last) that lie inside the image.
struct Inside {
  int first, last;
};

// Consecutive output pixels, 1 to kTilePixels.
struct Tile {
  int count;
  Pixels pixels;
  Inside rows[kTilePixels], columns[kTilePixels];
  bool all;  // taps of all pixels lie inside
};

inline Inside inside(int start, int kernel, int size) {
  return {start < 0 ? -start : 0, least(kernel, size - start)};
}

// The next `count` pixels; moves the cursor behind them.
inline void next_tile(const ConvShape& s, int count, Cursor& next, Tile& tile) {
  const std::int64_t across = static_cast<std::int64_t>(s.stride_w) * kColors * 2;
  const std::int64_t down = s.stride_h * row_words(s) * 2 - s.out_w * across;
  tile.count = count;
  tile.all = true;
  for (int p = 0; p < count; ++p) {
    const Inside rows = inside(next.y * s.stride_h - s.pad_h, s.kernel_h, s.in_h);
    const Inside columns = inside(next.x * s.stride_w - s.pad_w, s.kernel_w, s.in_w);
    tile.rows[p] = rows;
    tile.columns[p] = columns;
    tile.all = tile.all && rows.last - rows.first == s.kernel_h &&
               columns.last - columns.first == s.kernel_w;
    tile.pixels.window[p] = next.window;
    next.window += across;
    if (++next.x == s.out_w) {
      next.x = 0, ++next.y;
      next.window += down;
    }
  }
}

// The fourth channel's part for a block of output channels: kBlock numbers for each pixel.
inline void fourth_channel(const ConvShape& s, const std::int32_t* sums, const Tile& tile,
                           std::int32_t* out) {
  for (int p = 0; p < tile.count; ++p, out += kBlock) {
    const std::int32_t* top = sums + tile.rows[p].first * (s.kernel_w + 1) * kBlock;
    const std::int32_t* bottom = sums + tile.rows[p].last * (s.kernel_w + 1) * kBlock;
    const int left = tile.columns[p].first * kBlock, right = tile.columns[p].last * kBlock;
    for (int c = 0; c < kBlock; c += kLanes) {
      const Ints above = subtract(load(top + right + c), load(top + left + c));
      const Ints all = subtract(load(bottom + right + c), load(bottom + left + c));
      store(out + c, subtract(all, above));
    }
  }
}

// Accumulators of P pixels and one block of output channels, which begin with `fourth`, `stride`
// numbers from pixel to pixel. Not inlined: see direct.cpp.
template <int P>
[[gnu::noinline]] void accumulate(const ConvShape& s, const Pixels& pixels,
                                  const std::uint8_t* weights, const std::int32_t* fourth,
                                  int stride, std::int32_t* acc) {
  WordDot::Sum sum[P][kTileVectors];
  clear(sum);
  const std::int64_t steps = steps_of(s), row = row_words(s) * 2;
  for (int ky = 0; ky < s.kernel_h; ++ky) {
    add_steps<WordDot, P>(pixels, ky * row, weights, steps, sum);
    weights += steps * kBlock * 4;
  }
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < kTileVectors; ++v) {
      const Ints part = load(fourth + p * stride + v * kLanes);
      store(acc + p * kBlock + v * kLanes, add(WordDot::widen(sum[p][v]), part));
    }
  }
}

template <int P>
inline void accumulate_tile(const ConvShape& s, const Tile& tile, const std::uint8_t* weights,
                            const std::int32_t* fourth, int stride, std::int32_t* acc) {
  if constexpr (P > 1) {
    if (tile.count < P) return accumulate_tile<P - 1>(s, tile, weights, fourth, stride, acc);
  }
  accumulate<P>(s, tile.pixels, weights, fourth, stride, acc);
}

// Tiles that the epilogue takes together, as in direct.cpp.
constexpr int kStripTiles = 4;
constexpr int kStripPixels = kStripTiles * kTilePixels;

// Blocks [first, last) of output channels.
struct Blocks {
  int first, last;
  const std::int32_t* weights;  // of the first
};

// Some pixels, for each block; moves the cursor behind them.
inline void strip(const ConvRun& run, const Blocks& blocks, int count, Cursor& next) {
  const ConvShape& s = run.shape;
  const int y = next.y, x = next.x;
  // Tiles of nearly one size: 9 pixels are 5 and 4, not 6 and 3.
  Tile tiles[kStripTiles];
  const int many = (count + kTilePixels - 1) / kTilePixels;
  for (int i = 0, left = count; i < many; ++i) {
    next_tile(s, (left + many - i - 1) / (many - i), next, tiles[i]);
    left -= tiles[i].count;
  }
  const std::int32_t* weights = blocks.weights;
  for (int block = blocks.first; block < blocks.last; ++block) {
    const std::int32_t* sums = weights + pairs(s);
    const std::int32_t* whole = sums + ((s.kernel_h + 1) * (s.kernel_w + 1) - 1) * kBlock;
    alignas(64) std::int32_t acc[kStripPixels * kBlock];
    std::int32_t* to = acc;
    for (int i = 0; i < many; ++i) {
      alignas(64) std::int32_t fourth[kTilePixels * kBlock];
      const bool all = tiles[i].all;
      if (!all) fourth_channel(s, sums, tiles[i], fourth);
      accumulate_tile<kTilePixels>(s, tiles[i], reinterpret_cast<const std::uint8_t*>(weights),
                                   all ? whole : fourth, all ? 0 : kBlock, to);
      to += tiles[i].count * kBlock;
    }
    const int channel = block * kBlock;
    finish_channels(run.epilogue, s, acc, kBlock, count, y, x, channel, kBlock, s.out_channels);
    weights += block_units(s);
  }
}

// A task takes some pixels through all output channels; whoever prepares a block of weights takes
// it through all pixels.
constexpr int kTaskPixels = 4 * kStripPixels;

int tasks(const ConvShape& s, bool prepared) {
  return prepared ? (s.out_h * s.out_w + kTaskPixels - 1) / kTaskPixels : blocks_of(s);
}

std::size_t scratch_bytes(const ConvShape& s, bool prepared) {
  return prepared ? 0 : static_cast<std::size_t>(block_units(s)) * sizeof(std::int32_t);
}

void run_task(const ConvRun& run, int task, void* scratch) {
  const ConvShape& s = run.shape;
  int begin = 0, end = s.out_h * s.out_w;
  Blocks blocks = {0, blocks_of(s), static_cast<const std::int32_t*>(run.weights)};
  if (run.weights == nullptr) {
    prepare_block(s, run.source, task, static_cast<std::int32_t*>(scratch));
    blocks = {task, task + 1, static_cast<const std::int32_t*>(scratch)};
  } else {
    begin = task * kTaskPixels;
    end = least(end, begin + kTaskPixels);
  }
  const int y = begin / s.out_w, x = begin % s.out_w;
  const std::int64_t row = y * s.stride_h - s.pad_h + s.border;
  const std::int64_t column = x * s.stride_w - s.pad_w + s.border;
  Cursor next = {y, x,
                 static_cast<const std::uint8_t*>(run.transformed) +
                     (row * row_words(s) + column * kColors) * 2};
  for (int at = begin; at < end; at += kStripPixels) {
    strip(run, blocks, least(kStripPixels, end - at), next);
  }
}

}  // namespace

extern const ConvKernel image;

const ConvKernel image = {"image",  eligible,      weight_bytes, prepare,  input_bytes, input_rows,
                          to_words, scratch_bytes, tasks,        run_task, true};

}  // namespace RSQUANT_ISA
}  // namespace rsquant
