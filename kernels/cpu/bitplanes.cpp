// Convolution on bit planes: AND and a count of bits.
//
// A weight level is offset + sum_k p_k b_k, an input byte sum_j q_j c_j, b and c in {0, 1}. Over
// the positions of a window, |.| being the number of bits,
//
//   acc = sum (offset + sum_k p_k b_k) (sum_j q_j c_j)
//       = sum_kj (p_k q_j) |b_k & c_j|  +  offset S            S: sum of the window's bytes.
//
// S is the same for all output channels: it comes from the transform of the input, summed along the
// rows of the window already. All arithmetic is modulo 2^32; what fits 32 bits in the end is exact.
//
// 64 input channels are a word. A lane is an output channel: one step takes a word of each pixel to
// all lanes, and the counts stay in their lanes.
//
//   for each k, j:  for each run, for each step:  w_v <- load a word of each channel  (v vectors)
//                                                 a_p <- broadcast a word of pixel p  (p pixels)
//                                                 sum_pv <- sum_pv + |a_p & w_v|
//                   acc <- acc + (p_k q_j) sum                            32-bit sums in memory
//
// A step of a tile is 3 vp vector operations on p + v loads, so the arithmetic units stay the bound
// with few pixels too: tiles at the end of a map may be small.
//
// Runs are those of the direct convolution: a row of the kernel, or a tap.
//
//   input     [row][plane][pixel][group][word], then S of each row of a window:
//             [row][group][column]
//   weights   blocks of 16 output channels: offset; p_k q_j for each pair; then
//             [plane][step][channel]
//
// Prepared weights take the room of the packed ones (where 64 divides the input channels), so that
// preparing them on the way costs a copy.

#include "simd.h"

#if defined(RSQUANT_BITPLANES)

#include <cstring>

#include "epilogue.h"
#include "planes.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

typedef BitDot::Sum Sum;

constexpr int kBlock = kGroup;                     // output channels of a tile
constexpr int kSums = kBlock / BitDot::kChannels;  // vectors of counts of a pixel
constexpr int kPixels = BitDot::kPixels;
constexpr int kTaskPixels = 16 * kPixels;

// Fewest channels of a group whose words are not mostly empty.
constexpr int kFewestChannels = 16;

// How a convolution lies in words.
struct Layout {
  int channels;        // of a group
  int words;           // of a pixel, a group and a plane
  std::int64_t pixel;  // words from pixel to pixel
  std::int64_t plane;  // from plane to plane of a row
  std::int64_t row;    // from row to row
  int rows;
  int runs;
  int run_words;
  int steps;   // of all runs
  int blocks;  // of a group

  explicit Layout(const ConvShape& s)
      : channels(s.in_channels / s.groups),
        words((channels + 63) / 64),
        pixel(std::int64_t{words} * s.groups),
        plane(pixel * (s.in_w + 2 * s.border)),
        row(plane * s.input_bits),
        rows(s.in_h + 2 * s.border),
        runs(whole_rows(s) ? s.kernel_h : s.kernel_h * s.kernel_w),
        run_words(whole_rows(s) ? s.kernel_w * words : words),
        steps(runs * run_words),
        blocks((s.out_channels / s.groups + kBlock - 1) / kBlock) {}

  static bool whole_rows(const ConvShape& s) { return s.groups == 1 && s.dilation_w == 1; }

  // From the window's first word.
  std::int64_t run_offset(const ConvShape& s, int run) const {
    if (whole_rows(s)) return run * s.dilation_h * row;
    return run / s.kernel_w * s.dilation_h * row + run % s.kernel_w * s.dilation_w * pixel;
  }
  // Of the input in words, of its sums over rows of a window, and of the sums over pixels.
  std::size_t plane_bytes() const { return static_cast<std::size_t>(rows * row) * 8; }
  std::int64_t row_sums(const ConvShape& s) const { return std::int64_t{s.groups} * s.out_w; }
  std::int64_t pixel_sums(const ConvShape& s) const {
    return std::int64_t{s.groups} * (s.in_w + 2 * s.border);
  }
  // Of a block of weights.
  std::size_t factor_bytes(const ConvShape& s) const {
    return static_cast<std::size_t>(1 + s.weight_bits * s.input_bits) * kBlock * 4;
  }
  std::size_t block_bytes(const ConvShape& s) const {
    return factor_bytes(s) + static_cast<std::size_t>(s.weight_bits) * steps * kBlock * 8;
  }
};

bool eligible(const ConvShape& s) {
  if (s.weight_bits == 0 || s.input_bits == 0 || s.input_limit > 127) return false;
  for (int j = 0; j < s.input_bits; ++j) {
    if (s.input_basis[j] < 0) return false;  // then the byte of 0 is not 0
  }
  return s.groups == 1 || s.in_channels / s.groups >= kFewestChannels;
}

// --- Weights ---

void prepare_block(const ConvShape& s, const ConvWeights& w, int block, void* out) {
  const Layout layout(s);
  const int per_group = s.out_channels / s.groups, first = block % layout.blocks * kBlock;
  const int exist = per_group - first < kBlock ? per_group - first : kBlock;
  const int channel = block / layout.blocks * per_group + first;
  if (exist < kBlock) std::memset(out, 0, layout.block_bytes(s));
  std::int32_t* factor = static_cast<std::int32_t*>(out);
  for (int o = 0; o < exist; ++o) {
    factor[o] = w.offset[channel + o];
    for (int k = 0; k < s.weight_bits; ++k) {
      const std::int32_t p = w.basis[(channel + o) * s.weight_bits + k];
      for (int j = 0; j < s.input_bits; ++j) {
        factor[(1 + k * s.input_bits + j) * kBlock + o] = p * s.input_basis[j];
      }
    }
  }
  std::uint8_t* to = static_cast<std::uint8_t*>(out) + layout.factor_bytes(s);
  for (int k = 0; k < s.weight_bits; ++k) {
    for (int o = 0; o < exist; ++o) {
      const std::uint8_t* row =
          w.planes + (static_cast<std::int64_t>(k) * s.out_channels + channel + o) * w.plane_bytes;
      std::uint8_t* at = to + o * 8;
      for (std::int64_t i = 0; i < std::int64_t{layout.channels} * s.kernel_h * s.kernel_w;) {
        for (int c = 0; c < layout.channels; c += 64, at += kBlock * 8) {
          const int count = layout.channels - c < 64 ? layout.channels - c : 64;
          const std::uint64_t word = bits_at(row, i, count);
          std::memcpy(at, &word, 8);
          i += count;
        }
      }
    }
    to += static_cast<std::size_t>(layout.steps) * kBlock * 8;
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

// --- Input ---

// The code of each level; of codes with the same level the first.
inline Codes codes_of(const ConvShape& s) {
  Codes codes = {};
  codes.planes = s.input_bits;
  for (int code = 1; code < 1 << s.input_bits; ++code) {
    int level = 0;
    for (int j = 0; j < s.input_bits; ++j) level += code >> j & 1 ? s.input_basis[j] : 0;
    if (level == 0 || level > 127 || codes.of[level] != 0) continue;
    codes.of[level] = static_cast<std::uint8_t>(code);
    codes.level[codes.count] = static_cast<std::uint8_t>(level);
    codes.code[codes.count++] = static_cast<std::uint8_t>(code);
  }
  return codes;
}

std::size_t input_bytes(const ConvShape& s) {
  const Layout layout(s);
  return layout.plane_bytes() +
         static_cast<std::size_t>(layout.rows * (layout.row_sums(s) + layout.pixel_sums(s))) * 4;
}

int input_tasks(const ConvShape& s) { return s.in_h + 2 * s.border; }

void transform_input(const ConvShape& s, const std::uint8_t* input, void* out, int row) {
  const Layout layout(s);
  const Codes codes = codes_of(s);
  std::uint64_t* planes = static_cast<std::uint64_t*>(out) + row * layout.row;
  std::int32_t* row_sums =
      reinterpret_cast<std::int32_t*>(static_cast<std::uint8_t*>(out) + layout.plane_bytes());
  std::int32_t* sums = row_sums + layout.rows * layout.row_sums(s) + row * layout.pixel_sums(s);
  row_sums += row * layout.row_sums(s);

  const std::uint8_t* pixel = input + row * row_bytes(s);
  for (int x = 0; x < s.in_w + 2 * s.border; ++x, pixel += s.pixel_bytes) {
    for (int group = 0; group < s.groups; ++group) {
      const std::uint8_t* bytes = pixel + group * layout.channels;
      std::int32_t sum = 0;
      for (int c = 0; c < layout.channels; c += 64, ++planes) {
        std::uint64_t word[4];
        split64(bytes + c, codes, word);
        const int count = layout.channels - c;
        const std::uint64_t exist =
            count < 64 ? (std::uint64_t{1} << count) - 1 : ~std::uint64_t{0};
        for (int j = 0; j < s.input_bits; ++j) {
          planes[j * layout.plane] = word[j] & exist;
          sum += s.input_basis[j] * __builtin_popcountll(word[j] & exist);
        }
      }
      sums[x * s.groups + group] = sum;
    }
  }
  for (int group = 0; group < s.groups; ++group) {
    for (int x = 0; x < s.out_w; ++x) {
      const std::int32_t* tap = sums + (x * s.stride_w - s.pad_w + s.border) * s.groups + group;
      std::int32_t sum = 0;
      for (int kx = 0; kx < s.kernel_w; ++kx) sum += tap[kx * s.dilation_w * s.groups];
      row_sums[group * s.out_w + x] = sum;
    }
  }
}

// --- The loop ---

// Output pixels of a tile: where their windows begin, and S.
struct Pixels {
  const std::uint64_t* window[kPixels];
  std::int32_t sum[kPixels];
};

// Accumulators of P pixels and one block of output channels. Not inlined: the loop needs every
// register.
template <int P>
[[gnu::noinline]] void accumulate(const ConvShape& s, const Layout& layout, const Pixels& pixels,
                                  const std::uint8_t* weights, std::int32_t* acc) {
  const std::int32_t* factor = reinterpret_cast<const std::int32_t*>(weights);
  weights += layout.factor_bytes(s);
  for (int i = 0; i < kVectors; ++i) {
    const Ints whole = load(factor + i * kLanes);
    for (int p = 0; p < P; ++p) {
      store(acc + p * kBlock + i * kLanes, multiply(whole, broadcast(pixels.sum[p])));
    }
  }
  for (int k = 0; k < s.weight_bits; ++k) {
    for (int j = 0; j < s.input_bits; ++j) {
      factor += kBlock;
      const std::uint8_t* words = weights;
      Sum sum[P][kSums] = {};
      int left = BitDot::kSteps;
      const auto weigh = [&] {
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
          for (int i = 0; i < kVectors; ++i) {
            std::int32_t* to = acc + p * kBlock + i * kLanes;
            const Sum* of = sum[p] + i * (kLanes / BitDot::kChannels);
            store(to, BitDot::weigh(load(to), of, load(factor + i * kLanes)));
          }
        }
      };
      for (int run = 0; run < layout.runs; ++run) {
        const std::int64_t offset = layout.run_offset(s, run) + j * layout.plane;
        const std::uint64_t* at[P];
        for (int p = 0; p < P; ++p) at[p] = pixels.window[p] + offset;
        for (int done = 0; done < layout.run_words;) {
          if (left == 0) {
            weigh();
            left = BitDot::kSteps;
#pragma GCC unroll 16
            for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
              for (int v = 0; v < kSums; ++v) sum[p][v] = Sum{};
            }
          }
          const int count = left < layout.run_words - done ? left : layout.run_words - done;
          for (std::int64_t i = done; i < done + count; ++i) {
            Sum w[kSums];
#pragma GCC unroll 16
            for (int v = 0; v < kSums; ++v) w[v] = BitDot::load(words + v * sizeof(Sum));
            words += kBlock * 8;
#pragma GCC unroll 16
            for (int p = 0; p < P; ++p) {
              const Sum a = BitDot::spread(at[p][i]);
#pragma GCC unroll 16
              for (int v = 0; v < kSums; ++v) sum[p][v] = BitDot::step(sum[p][v], a, w[v]);
            }
          }
          left -= count;
          done += count;
        }
      }
      weigh();
    }
    weights += static_cast<std::size_t>(layout.steps) * kBlock * 8;
  }
}

// --- The kernel ---

inline int pixel_tasks(const ConvShape& s, bool prepared) {
  // Whoever prepares a block of weights uses it for all pixels.
  return prepared ? (s.out_h * s.out_w + kTaskPixels - 1) / kTaskPixels : 1;
}

int tasks(const ConvShape& s, bool prepared) {
  return s.groups * Layout(s).blocks * pixel_tasks(s, prepared);
}

std::size_t scratch_bytes(const ConvShape& s, bool prepared) {
  return prepared ? 0 : Layout(s).block_bytes(s);
}

// What a task works on.
struct Work {
  const ConvRun& run;
  Layout layout;
  const std::uint8_t* weights;
  const std::uint64_t* words;    // of the group, at the first pixel of the border
  const std::int32_t* row_sums;  // of the group
  int channel, end;
};

template <int P>
inline void tile(const Work& work, int at) {
  const ConvShape& s = work.run.shape;
  Pixels pixels;
  for (int p = 0; p < P; ++p) {
    const int y = (at + p) / s.out_w, x = (at + p) % s.out_w;
    const std::int64_t row = std::int64_t{y} * s.stride_h - s.pad_h + s.border;
    const std::int64_t column = std::int64_t{x} * s.stride_w - s.pad_w + s.border;
    pixels.window[p] = work.words + row * work.layout.row + column * work.layout.pixel;
    const std::int64_t sums = work.layout.row_sums(s);
    pixels.sum[p] = 0;
    for (int ky = 0; ky < s.kernel_h; ++ky) {
      pixels.sum[p] += work.row_sums[(row + ky * s.dilation_h) * sums + x];
    }
  }
  alignas(64) std::int32_t acc[P * kBlock];
  accumulate<P>(s, work.layout, pixels, work.weights, acc);
  finish(work.run.epilogue, s, acc, kBlock, P, at / s.out_w, at % s.out_w, work.channel, work.end);
}

void run_task(const ConvRun& run, int task, void* scratch) {
  const ConvShape& s = run.shape;
  const Layout layout(s);
  const bool prepared = run.weights != nullptr;
  const int parts = pixel_tasks(s, prepared), pixels = s.out_h * s.out_w;
  const int block = task / parts, part = task % parts;
  const int group = block / layout.blocks, per_group = s.out_channels / s.groups;
  const std::uint8_t* weights = static_cast<const std::uint8_t*>(scratch);
  if (prepared) {
    weights = static_cast<const std::uint8_t*>(run.weights) + block * layout.block_bytes(s);
  } else {
    prepare_block(s, run.source, block, scratch);
  }
  const std::uint8_t* input = static_cast<const std::uint8_t*>(run.transformed);
  const Work work = {
      run,
      layout,
      weights,
      reinterpret_cast<const std::uint64_t*>(input) + std::int64_t{group} * layout.words,
      reinterpret_cast<const std::int32_t*>(input + layout.plane_bytes()) + group * s.out_w,
      group * per_group + block % layout.blocks * kBlock,
      (group + 1) * per_group};
  int at = prepared ? part * kTaskPixels : 0;
  const int end = prepared && at + kTaskPixels < pixels ? at + kTaskPixels : pixels;
  for (; end - at >= kPixels; at += kPixels) tile<kPixels>(work, at);
  if constexpr (kPixels > 4) {
    for (; end - at >= 4; at += 4) tile<4>(work, at);
  }
  if constexpr (kPixels > 2) {
    for (; end - at >= 2; at += 2) tile<2>(work, at);
  }
  for (; end - at >= 1; at += 1) tile<1>(work, at);
}

}  // namespace

extern const ConvKernel bitplanes;

const ConvKernel bitplanes = {"bitplanes", eligible,        weight_bytes,  prepare, input_bytes,
                              input_tasks, transform_input, scratch_bytes, tasks,   run_task,
                              true};

}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
