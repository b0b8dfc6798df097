// Depthwise convolution: one filter for each channel, groups = input channels = output channels.
//
// The direct convolution would fill a block of output channels with one channel of each group. Here
// a lane is a channel, of input and output alike:
//
//   sum_p <- sum_p + bytes of pixel p under the tap * weights of the tap
//
// Products are summed in 16 bits for as many taps as the levels allow (156 on the coarse grid:
// 15 * 14 * 156 <= 32,767; two where both are 127), then added to 32-bit sums in memory. Even a
// byte of 255 times a weight of 127 fits 16 bits.
//
// Where all of a window fits 16 bits and only levels are wanted, thresholds are compared there too
// (conv.h's WordLevels, whose shifts are 0 then).
//
// Lanes beyond the last channel hold whatever follows in memory, meet zero weights, and are not
// written.
//
// Weights: [block of channels][tap][channel], int16, where taps are not taken in pairs
// (depthwise_pairs.h) or by rows (depthwise_rows.h).

#include <cstring>

#include "depthwise_pairs.h"
#include "depthwise_rows.h"
#include "thresholds.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Channels of a block: the 16-bit lanes of a vector, and no fewer than the epilogue takes.
#if defined(RSQUANT_TAP_PAIRS)
constexpr int kBlock = kPairBlock;
#else
constexpr int kBlock = 2 * kLanes > kGroup ? 2 * kLanes : kGroup;
#endif
static_assert(kBlock % kGroup == 0 && kChannelBlock % kBlock == 0, "whole groups, whole tables");
static_assert(kBlock <= 64, "a block of the last pixel is readable");

constexpr int kWords = 2 * kLanes, kBlockVectors = kBlock / kWords;
constexpr int kTile = 4;                  // pixels that share a load of weights
constexpr int kPixels = 16;               // pixels that are finished together
constexpr int kTaskPixels = 4 * kPixels;  // of a task that has prepared weights

typedef std::int16_t Words __attribute__((vector_size(sizeof(Ints))));
typedef std::uint8_t Levels __attribute__((vector_size(sizeof(Ints) / 2)));

inline int blocks_of(const ConvShape& s) { return (s.out_channels + kBlock - 1) / kBlock; }

// Weights of a block, in elements.
inline std::int64_t block_words(const ConvShape& s) {
  return std::int64_t{kBlock} * s.kernel_h * s.kernel_w;
}

void prepare_block(const ConvShape& s, const ConvWeights& w, int block, std::int16_t* out) {
#if defined(RSQUANT_TAP_PAIRS)
  if (takes_pairs(s)) return prepare_pairs(s, w, block, reinterpret_cast<std::int8_t*>(out));
#endif
  std::memset(out, 0, static_cast<std::size_t>(block_words(s)) * sizeof(*out));
  const std::int64_t n = std::int64_t{s.kernel_h} * s.kernel_w;
  for (int o = 0; o < kBlock && block * kBlock + o < s.out_channels; ++o) {
    for (std::int64_t i = 0; i < n; i += 32) {
      std::int8_t levels[32];
      levels_at(s, w, block * kBlock + o, i, n, levels);
      for (int k = 0; k < 32 && i + k < n; ++k) out[(i + k) * kBlock + o] = levels[k];
    }
  }
}

// Adds up to `count` taps of a row of the kernel, and moves behind them.
inline void add_taps(const std::uint8_t* const* window, std::int64_t& offset, std::int64_t across,
                     const std::int16_t*& weights, int count, Ints (&sum)[kTile][kBlockVectors]) {
  for (int i = 0; i < count; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kBlockVectors; ++v) {
      const Ints w = load(weights + v * kWords);
#pragma GCC unroll 4
      for (int p = 0; p < kTile; ++p) {
        sum[p][v] = multiply_add16(sum[p][v], widen_bytes(window[p] + offset + v * kWords), w);
      }
    }
    weights += kBlock;
    offset += across;
  }
}

// Accumulators of kTile pixels and a block of channels. `most`: taps that a 16-bit sum holds.
[[gnu::noinline]] void accumulate(const ConvShape& s, const std::uint8_t* const* window,
                                  const std::int16_t* weights, int most, std::int32_t* acc) {
  Ints sum[kTile][kBlockVectors] = {};
  int left = most;
  std::memset(acc, 0, kTile * kBlock * sizeof(*acc));
  const auto widen = [&] {
#pragma GCC unroll 4
    for (int p = 0; p < kTile; ++p) {
#pragma GCC unroll 2
      for (int v = 0; v < kBlockVectors; ++v) {
        add_to(acc + p * kBlock + v * kWords, sum[p][v]);
        sum[p][v] = Ints{};
      }
    }
    left = most;
  };
  const std::int64_t across = static_cast<std::int64_t>(s.dilation_w) * s.pixel_bytes;
  for (int ky = 0; ky < s.kernel_h; ++ky) {
    std::int64_t offset = ky * s.dilation_h * row_bytes(s);
    for (int done = 0; done < s.kernel_w;) {
      const int count = left < s.kernel_w - done ? left : s.kernel_w - done;
      add_taps(window, offset, across, weights, count, sum);
      done += count;
      left -= count;
      if (left == 0) widen();
    }
  }
  if (left != most) widen();
}

// --- Levels from sums of 16 bits ---

inline bool in_words(const ConvRun& run) {
  const ConvShape& s = run.shape;
  return run.epilogue.words.tables != nullptr &&
         s.kernel_h * s.kernel_w <= 32767 / (s.input_limit * s.weight_limit);
}

// Levels of kTile pixels and a block of channels, `exist` of which are written. tables: of the
// block's first channel.
template <int T>
[[gnu::noinline]] void tap_levels(const ConvShape& s, const std::int16_t* tables,
                                  std::int64_t padded, const std::uint8_t* const* window,
                                  const std::int16_t* weights, int exist,
                                  std::uint8_t* const* out) {
  Ints sum[kTile][kBlockVectors] = {};
  const std::int64_t across = static_cast<std::int64_t>(s.dilation_w) * s.pixel_bytes;
  for (int ky = 0; ky < s.kernel_h; ++ky) {
    std::int64_t offset = ky * s.dilation_h * row_bytes(s);
    add_taps(window, offset, across, weights, s.kernel_w, sum);
  }
  Words level[kTile][kBlockVectors];
#pragma GCC unroll 2
  for (int v = 0; v < kBlockVectors; ++v, tables += kWords) {
    const Words base = (Words)load(tables + 2 * T * padded);
    for (int p = 0; p < kTile; ++p) level[p][v] = base;
#pragma GCC unroll 15
    for (int k = 0; k < T; ++k) {
      const Words threshold = (Words)load(tables + k * padded);
      const Words step = (Words)load(tables + (T + k) * padded);
#pragma GCC unroll 4
      for (int p = 0; p < kTile; ++p) {
        level[p][v] += ((Words)sum[p][v] > threshold) & step;
      }
    }
    const int here = exist - v * kWords;
#pragma GCC unroll 4
    for (int p = 0; p < kTile; ++p) {
      const Levels bytes = __builtin_convertvector(level[p][v], Levels);
      if (here >= kWords) {
        std::memcpy(out[p] + v * kWords, &bytes, kWords);
      } else if (here > 0) {
        std::memcpy(out[p] + v * kWords, &bytes, static_cast<std::size_t>(here));
      }
    }
  }
}

inline void tap_levels_any(const ConvShape& s, const Epilogue& e, int channel,
                           const std::uint8_t* const* window, const std::int16_t* weights,
                           std::uint8_t* const* out) {
  as_compiled(e.thresholds, [&]<int T>() {
    tap_levels<T>(s, e.words.tables + channel, e.words.padded, window, weights,
                  s.out_channels - channel, out);
  });
}

// --- The kernel ---

bool eligible(const ConvShape& s) {
  return s.groups == s.in_channels && s.groups == s.out_channels && s.weight_limit <= 127;
}

std::size_t weight_bytes(const ConvShape& s) {
#if defined(RSQUANT_TAP_ROWS)
  if (takes_rows(s)) return static_cast<std::size_t>(row_blocks(s) * row_block_bytes(s));
#endif
  return static_cast<std::size_t>(blocks_of(s) * block_words(s)) * sizeof(std::int16_t);
}

void prepare(const ConvShape& s, const ConvWeights& w, void* out) {
#if defined(RSQUANT_TAP_ROWS)
  if (takes_rows(s)) {
    for (int block = 0; block < row_blocks(s); ++block) {
      prepare_rows(s, w, block, static_cast<std::int8_t*>(out) + block * row_block_bytes(s));
    }
    return;
  }
#endif
  for (int block = 0; block < blocks_of(s); ++block) {
    prepare_block(s, w, block, static_cast<std::int16_t*>(out) + block * block_words(s));
  }
}

// Weights of a block where they are not prepared.
std::size_t scratch_bytes(const ConvShape& s, bool prepared) {
  if (prepared) return 0;
#if defined(RSQUANT_TAP_ROWS)
  if (takes_rows(s)) return static_cast<std::size_t>(row_block_bytes(s));
#endif
  return static_cast<std::size_t>(block_words(s)) * sizeof(std::int16_t);
}

// With prepared weights a task is a piece of the map and all channels, so that every line of the
// input is used up while it is in the cache. Without, whoever prepares a block uses it everywhere.
int tasks(const ConvShape& s, bool prepared) {
#if defined(RSQUANT_TAP_ROWS)
  if (takes_rows(s)) return row_tasks(s, prepared);
#endif
  return prepared ? (s.out_h * s.out_w + kTaskPixels - 1) / kTaskPixels : blocks_of(s);
}

void run_task(const ConvRun& run, int task, void* scratch) {
  const ConvShape& s = run.shape;
#if defined(RSQUANT_TAP_ROWS)
  if (takes_rows(s)) return run_rows(run, in_words(run), task, static_cast<std::int8_t*>(scratch));
#endif
  const std::int16_t* weights = static_cast<const std::int16_t*>(run.weights);
  int begin = 0, end = s.out_h * s.out_w, first = 0, last = blocks_of(s);
  int skip = 0;  // blocks before those in `weights`
  if (weights != nullptr) {
    begin = task * kTaskPixels;
    if (begin + kTaskPixels < end) end = begin + kTaskPixels;
  } else {
    first = skip = task, last = task + 1;
    std::int16_t* own = static_cast<std::int16_t*>(scratch);
    prepare_block(s, run.source, task, own);
    weights = own;
  }
  const Epilogue& e = run.epilogue;
  const bool words = in_words(run);
#if defined(RSQUANT_TAP_PAIRS)
  const bool pairs = takes_pairs(s);
  std::int64_t offset[kMostTaps + 1];
  if (pairs) find_taps(s, offset);
#endif
  const int most = 32767 / (s.input_limit * s.weight_limit);
  for (int at = begin; at < end; at += kPixels) {
    const int count = end - at < kPixels ? end - at : kPixels;
    const std::uint8_t* window[kPixels];
    std::uint8_t* out[kPixels];
    for (int p = 0; p < kPixels; ++p) {
      const int pixel = at + (p < count ? p : count - 1);  // whole tiles: the last one again
      const int y = pixel / s.out_w, x = pixel % s.out_w;
      window[p] = run.input + window_offset(s, y, x);
      out[p] = words ? e.codes + y * e.codes_row + x * e.codes_pixel : nullptr;
    }
    for (int block = first; block < last; ++block) {
      const int channel = block * kBlock;
      const std::int16_t* own = weights + (block - skip) * block_words(s);
      alignas(64) std::int32_t acc[kPixels * kBlock];
      for (int p = 0; p < count; p += kTile) {
        const std::uint8_t* corner[kTile];
        for (int i = 0; i < kTile; ++i) corner[i] = window[p + i] + channel;
        std::uint8_t* to[kTile];
        for (int i = 0; i < kTile && words; ++i) to[i] = out[p + i] + channel;
#if defined(RSQUANT_TAP_PAIRS)
        if (pairs) {
          const std::int8_t* bytes = reinterpret_cast<const std::int8_t*>(own);
          if (words) {
            pair_levels_any(s, e, channel, corner, offset, bytes, to);
          } else {
            accumulate_pairs(corner, offset, tap_pairs(s), bytes, acc + p * kBlock);
          }
          continue;
        }
#endif
        if (words) {
          tap_levels_any(s, e, channel, corner, own, to);
        } else {
          accumulate(s, corner, own, most, acc + p * kBlock);
        }
      }
      if (words) continue;
      finish_channels(e, s, acc, kBlock, count, at / s.out_w, at % s.out_w, channel, kBlock,
                      s.out_channels);
    }
  }
}

}  // namespace

extern const ConvKernel depthwise;

const ConvKernel depthwise = {"depthwise", eligible,      weight_bytes, prepare,  nullptr, nullptr,
                              nullptr,     scratch_bytes, tasks,        run_task, true};

}  // namespace RSQUANT_ISA
}  // namespace rsquant
