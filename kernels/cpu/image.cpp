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

#include <algorithm>
#include <cstring>

#include "direct_tile.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kColors = 3;

// Steps of two words under a kernel row.
inline int steps_of(const ConvShape& s) { return (s.kernel_w * kColors + 1) / 2; }

// Words of an input row: at least one more is written behind the last pixel, and read.
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
  const int first = block * kBlock, exist = std::min(kBlock, s.out_channels - first);
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
  for (int x = 0; x < s.in_w + 2 * s.border; ++x) {
    std::uint32_t pixel;
    std::memcpy(&pixel, in + 4 * x, 4);
    std::uint64_t wide = pixel;
    wide = (wide | wide << 16) & 0x0000FFFF0000FFFF;
    wide = (wide | wide << 8) & 0x00FF00FF00FF00FF;
    std::memcpy(words + kColors * x, &wide, 8);  // the next pixel replaces the fourth word
  }
}

// --- The kernel ---

// Kernel rows or columns inside the image, of a window that begins at `start`.
struct Inside {
  int first, last;
};
inline Inside inside(int start, int kernel, int size) {
  return {std::max(0, -start), std::min(kernel, size - start)};
}

// The fourth channel's part for a block of output channels.
struct Taps {
  Inside rows, columns;
  bool all;  // inside the image
};
inline const std::int32_t* constant_of(const ConvShape& s, const std::int32_t* sums,
                                       const Taps& taps, std::int32_t* buffer) {
  const auto at = [&](int i, int j) { return sums + (i * (s.kernel_w + 1) + j) * kBlock; };
  const auto [top, bottom] = taps.rows;
  const auto [left, right] = taps.columns;
  if (taps.all) return at(bottom, right);
  for (int c = 0; c < kBlock; c += kLanes) {
    const Ints below = subtract(load(at(bottom, right) + c), load(at(bottom, left) + c));
    const Ints above = subtract(load(at(top, right) + c), load(at(top, left) + c));
    store(buffer + c, subtract(below, above));
  }
  return buffer;
}

// Accumulators of P pixels and one block of output channels. Not inlined: see direct.cpp.
template <int P>
[[gnu::noinline]] void accumulate(const ConvShape& s, const Pixels& pixels,
                                  const std::uint8_t* weights,
                                  const std::int32_t* const* constant, std::int32_t* acc) {
  WordDot::Sum sum[P][kTileVectors] = {};
  const std::int64_t steps = steps_of(s), row = row_words(s) * 2;
  for (int ky = 0; ky < s.kernel_h; ++ky) {
    add_steps<WordDot, P>(pixels, ky * row, weights, steps, sum);
    weights += steps * kBlock * 4;
  }
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < kTileVectors; ++v) {
      store(acc + p * kBlock + v * kLanes,
            add(WordDot::widen(sum[p][v]), load(constant[p] + v * kLanes)));
    }
  }
}

// `count` pixels, 1 to P.
template <int P>
inline void accumulate_some(const ConvShape& s, const std::uint8_t* const* window,
                            const std::uint8_t* weights, const std::int32_t* const* constant,
                            int count, std::int32_t* acc) {
  if constexpr (P > 1) {
    if (count < P) return accumulate_some<P - 1>(s, window, weights, constant, count, acc);
  }
  Pixels pixels;
  for (int p = 0; p < P; ++p) pixels.window[p] = window[p];
  accumulate<P>(s, pixels, weights, constant, acc);
}

// Pixels that the epilogue takes together, as in direct.cpp.
constexpr int kStripPixels = 4 * kTilePixels;

// Blocks [first, last) of output channels.
struct Blocks {
  int first, last;
  const std::int32_t* weights;  // of the first
};

// Some pixels, for each block; moves the cursor behind them.
inline void strip(const ConvRun& run, const Blocks& blocks, int count, Cursor& next) {
  const ConvShape& s = run.shape;
  const int y = next.y, x = next.x;
  const std::int64_t across = static_cast<std::int64_t>(s.stride_w) * kColors * 2;
  const std::int64_t down = s.stride_h * row_words(s) * 2 - s.out_w * across;
  const std::uint8_t* window[kStripPixels];
  Taps taps[kStripPixels];
  for (int p = 0; p < count; ++p) {
    window[p] = next.window;
    taps[p].rows = inside(next.y * s.stride_h - s.pad_h, s.kernel_h, s.in_h);
    taps[p].columns = inside(next.x * s.stride_w - s.pad_w, s.kernel_w, s.in_w);
    taps[p].all = taps[p].rows.last - taps[p].rows.first == s.kernel_h &&
                  taps[p].columns.last - taps[p].columns.first == s.kernel_w;
    next.window += across;
    if (++next.x == s.out_w) {
      next.x = 0, ++next.y;
      next.window += down;
    }
  }
  const std::int32_t* weights = blocks.weights;
  for (int block = blocks.first; block < blocks.last; ++block) {
    alignas(64) std::int32_t acc[kStripPixels * kBlock], buffer[kStripPixels * kBlock];
    const std::int32_t* constant[kStripPixels];
    for (int p = 0; p < count; ++p) {
      constant[p] = constant_of(s, weights + pairs(s), taps[p], buffer + p * kBlock);
    }
    int done = 0;
    for (int tiles = (count + kTilePixels - 1) / kTilePixels; tiles > 0; --tiles) {
      const int pixels = (count - done + tiles - 1) / tiles;
      accumulate_some<kTilePixels>(s, window + done, reinterpret_cast<const std::uint8_t*>(weights),
                                   constant + done, pixels, acc + done * kBlock);
      done += pixels;
    }
    const int channel = block * kBlock;
    for (int c = 0; c < kBlock && channel + c < s.out_channels; c += kGroup) {
      finish(run.epilogue, s, acc + c, kBlock, count, y, x, channel + c, s.out_channels);
    }
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
    end = std::min(end, begin + kTaskPixels);
  }
  const int y = begin / s.out_w, x = begin % s.out_w;
  const std::int64_t row = y * s.stride_h - s.pad_h + s.border;
  const std::int64_t column = x * s.stride_w - s.pad_w + s.border;
  Cursor next = {y, x,
                 static_cast<const std::uint8_t*>(run.transformed) +
                     (row * row_words(s) + column * kColors) * 2};
  for (int at = begin; at < end; at += kStripPixels) {
    strip(run, blocks, std::min(kStripPixels, end - at), next);
  }
}

}  // namespace

extern const ConvKernel image;

const ConvKernel image = {"image",  eligible,   weight_bytes,  prepare, input_bytes, input_rows,
                          to_words, scratch_bytes, tasks, run_task, true};

}  // namespace RSQUANT_ISA
}  // namespace rsquant
