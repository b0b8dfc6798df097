// Direct convolution: no copies of the input, no transform; the kernel for every shape.
//
// A tile is kTilePixels output pixels times kTileVectors vectors of output channels. Its
// accumulators stay in registers while the loop runs over the taps. One step broadcasts 4 bytes
// (4 input channels) of each pixel and multiplies them with the weights of these 4 channels for
// every output channel, a lane each, so nothing is ever summed across lanes:
//
//   for each run, for each step:  w_v <- load 4 weights x kLanes channels       (v vectors)
//                                 a_p <- broadcast 4 bytes of pixel p           (p pixels)
//                                 sum_pv <- sum_pv + a_p . w_v
//
// Runs. Under one row of the kernel the input bytes of all taps and channels lie in one piece
// (kernel_w * C' bytes), so a run is a kernel row and the loop knows nothing of taps. With groups
// or dilation a run is one tap.
//
// Pixels of a tile are consecutive in the output, across rows too: each has its own pointer.
//
// On machines without an 8-bit dot product (AVX2, NEON) sums of byte products are kept in 16 bits
// for as many steps as the levels allow (78 on the coarse grid: 2 * 15 * 14 * 78 <= 32,767), then
// added to 32-bit sums in memory, which costs little once in 78 steps. Where not even a few steps
// fit (the fine grid, the image's bytes), inputs and weights are widened to 16 bits beforehand.
// Float values become 16-bit integers on the same way.

#include <cstring>

#include "direct_tile.h"
#include "direct_wide.h"
#include "levels.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Fewest steps between additions to 32 bits for which bytes beat 16-bit words.
constexpr int kFewestSteps = 4;

// How the taps of a window lie in memory, in elements (bytes, or 16-bit words).
struct Runs {
  bool whole_rows;
  int count;
  int elements;  // of a run, a multiple of 4
};

inline int round_up(int n, int to) { return (n + to - 1) / to * to; }

inline Runs runs_of(const ConvShape& s) {
  if (s.groups == 1 && s.dilation_w == 1) {
    return {true, s.kernel_h, s.kernel_w * s.pixel_bytes};
  }
  return {false, s.kernel_h * s.kernel_w, round_up(s.in_channels / s.groups, 4)};
}

// Element offset of a run from the window's first element.
inline std::int64_t run_offset(const ConvShape& s, const Runs& runs, int run) {
  if (runs.whole_rows) return run * s.dilation_h * row_bytes(s);
  const int ky = run / s.kernel_w, kx = run % s.kernel_w;
  return ky * s.dilation_h * row_bytes(s) +
         static_cast<std::int64_t>(kx) * s.dilation_w * s.pixel_bytes;
}

inline int blocks_per_group(const ConvShape& s) {
  return (s.out_channels / s.groups + kBlock - 1) / kBlock;
}

// Where the weight of a flat tap (ky, kx, channel) belongs: an element number over all runs.
inline std::int64_t element_of(const ConvShape& s, const Runs& runs, std::int64_t flat) {
  const int channels = s.in_channels / s.groups;
  const std::int64_t tap = flat / channels, channel = flat % channels;
  if (!runs.whole_rows) return tap * runs.elements + channel;
  return tap / s.kernel_w * runs.elements + tap % s.kernel_w * s.pixel_bytes + channel;
}

// Prepared weights: [group][block][step over all runs][channels of the tile][elements of a step];
// so many elements from block to block.
inline std::size_t block_bytes(const ConvShape& s) {
  const Runs runs = runs_of(s);
  return static_cast<std::size_t>(runs.count) * runs.elements * kBlock;
}

inline void weights_at(const ConvShape& s, const ConvWeights& w, int o, std::int64_t i,
                       std::int64_t n, std::int8_t* out) {
  levels_at(s, w, o, i, n, out);
}

inline void weights_at(const ConvShape& s, const ConvWeights& w, int o, std::int64_t i,
                       std::int64_t n, std::int16_t* out) {
  const std::int64_t some = n - i < 32 ? n - i : 32;
  if (w.words != nullptr) {
    std::memcpy(out, w.words + o * n + i, static_cast<std::size_t>(some) * sizeof(*out));
    return;
  }
  std::int8_t levels[32];
  levels_at(s, w, o, i, n, levels);
  for (std::int64_t j = 0; j < some; ++j) out[j] = levels[j];
}

// Weights of one block. Element: int8 in steps of 4, or int16 in steps of 2.
template <class Element>
void prepare_block(const ConvShape& s, const ConvWeights& w, int block, Element* out) {
  constexpr int kStep = 4 / sizeof(Element);
  const Runs runs = runs_of(s);
  const int group = block / blocks_per_group(s);
  const int per_group = s.out_channels / s.groups;
  const int first = block % blocks_per_group(s) * kBlock;
  const int exist = per_group - first < kBlock ? per_group - first : kBlock;
  const int tile = tile_channels(exist);
  const int channels = s.in_channels / s.groups;
  const std::int64_t n = static_cast<std::int64_t>(s.kernel_h) * s.kernel_w * channels;
  // Whole steps lie together in both layouts: 4 weights move at a time.
  const bool together =
      kStep == 4 && channels % 4 == 0 && (!runs.whole_rows || channels == s.pixel_bytes);
  if (exist < tile || !together) std::memset(out, 0, block_bytes(s) * sizeof(Element));
  for (std::int64_t i = 0; i < n; i += 32) {
    Element levels[kBlock][32];
    for (int o = 0; o < exist; ++o)
      weights_at(s, w, group * per_group + first + o, i, n, levels[o]);
    const int some = n - i < 32 ? static_cast<int>(n - i) : 32;
    if (together) {
      for (int j = 0; j < some; j += 4) {
        Element* step = out + (i + j) / 4 * tile * 4;
        for (int o = 0; o < exist; ++o) std::memcpy(step + o * 4, &levels[o][j], 4);
      }
      continue;
    }
    for (int j = 0; j < some; ++j) {
      const std::int64_t e = element_of(s, runs, i + j);
      Element* step = out + e / kStep * tile * kStep + e % kStep;
      for (int o = 0; o < exist; ++o) step[o * kStep] = levels[o][j];
    }
  }
}

// --- The loop ---

// Accumulators of P pixels and V vectors of output channels. Sums in 32 bits all the way.
// Not inlined: the loop needs every register, and the compiler would give some to its caller.
template <class Dot, int P, int V>
[[gnu::noinline]] void accumulate_wide(const ConvShape& s, const Runs& runs, const Pixels& pixels,
                                       const std::uint8_t* weights, int element_bytes,
                                       std::int32_t* acc) {
  typename Dot::Sum sum[P][V];
  clear(sum);
  const int steps = runs.elements * element_bytes / 4;
  for (int run = 0; run < runs.count; ++run) {
    add_steps<Dot, P, V>(pixels, run_offset(s, runs, run) * element_bytes, weights, steps, sum);
    weights += static_cast<std::int64_t>(steps) * V * sizeof(Ints);
  }
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < V; ++v) store(acc + p * kBlock + v * kLanes, Dot::widen(sum[p][v]));
  }
}

// The same with sums in 16 bits, added to `acc` before they could overflow.
template <class Dot, int P, int V>
[[gnu::noinline]] void accumulate_narrow(const ConvShape& s, const Runs& runs, const Pixels& pixels,
                                         const std::uint8_t* weights, int most, std::int32_t* acc) {
  typename Dot::Sum sum[P][V];
  clear(sum);
  const int steps = runs.elements / 4;
  int left = most;
  bool first =
      true;  // nothing in `acc` yet: clearing it beforehand would cost more than the branch
  const auto widen = [&] {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        std::int32_t* to = acc + p * kBlock + v * kLanes;
        const Ints wide = Dot::widen(sum[p][v]);
        store(to, first ? wide : add(load(to), wide));
        sum[p][v] = typename Dot::Sum{};
      }
    }
    left = most;
    first = false;
  };
  for (int run = 0; run < runs.count; ++run) {
    const std::int64_t offset = run_offset(s, runs, run);
    for (int done = 0; done < steps;) {
      const int count = left < steps - done ? left : steps - done;
      add_steps<Dot, P, V>(pixels, offset + 4 * done, weights, count, sum);
      weights += static_cast<std::int64_t>(count) * V * sizeof(Ints);
      done += count;
      left -= count;
      if (left == 0) widen();
    }
  }
  if (left != most || first) widen();
}

// --- The kernels ---

// Order of the loops. Where all weights stay in the second-level cache, a task takes a strip
// of pixels and goes through all output channels for each: whole pixels are read, added to and
// written in one piece. Otherwise a task takes one block of weights through many pixels.
constexpr std::size_t kCachedWeights = 192 * 1024;
constexpr int kStripPixels = 4 * kTilePixels;
constexpr int kManyPixels = 4 * kStripPixels;

inline int blocks_of(const ConvShape& s) { return s.groups * blocks_per_group(s); }

inline bool all_channels(const ConvShape& s, bool prepared) {
  // Whoever prepares a block of weights uses it for all pixels.
  return prepared && block_bytes(s) * blocks_of(s) <= kCachedWeights;
}

inline int pixel_tasks(const ConvShape& s, bool prepared) {
  if (!prepared) return 1;
  const int pixels = all_channels(s, prepared) ? kStripPixels : kManyPixels;
  return (s.out_h * s.out_w + pixels - 1) / pixels;
}

int tasks(const ConvShape& s, bool prepared) {
  return (all_channels(s, prepared) ? 1 : blocks_of(s)) * pixel_tasks(s, prepared);
}

// What a task computes: blocks [first, last) of weights for pixels [begin, end).
struct Range {
  int first, last, begin, end;
  int group, channel, channel_end;  // of the first block
  std::size_t block_bytes;
};

inline Range range_of(const ConvShape& s, int task, bool prepared) {
  const int parts = pixel_tasks(s, prepared), pixels = s.out_h * s.out_w;
  const int part = task % parts;
  const int share = all_channels(s, prepared) ? kStripPixels : prepared ? kManyPixels : pixels;
  const int begin = part * share;
  const int end = begin + share < pixels ? begin + share : pixels;
  const bool all = all_channels(s, prepared);
  const int first = all ? 0 : task / parts;
  const int last = all ? blocks_of(s) : first + 1;
  const int per_group = s.out_channels / s.groups, group = first / blocks_per_group(s);
  const int channel = group * per_group + first % blocks_per_group(s) * kBlock;
  return {first, last, begin, end, group, channel, (group + 1) * per_group, block_bytes(s)};
}

// Accumulators of `count` pixels, 1 to P, and V vectors of channels.
template <class Dot, class Element, int V, int P>
inline void accumulate(const ConvShape& s, const Runs& runs, const Pixels& pixels,
                       const std::uint8_t* weights, int count, std::int32_t* acc) {
  if constexpr (P > 1) {
    if (count < P) {
      return accumulate<Dot, Element, V, P - 1>(s, runs, pixels, weights, count, acc);
    }
  }
  if constexpr (Dot::kNarrow) {
    const int most = Dot::steps(s.input_limit, s.weight_limit);
    accumulate_narrow<Dot, P, V>(s, runs, pixels, weights, most, acc);
  } else {
    accumulate_wide<Dot, P, V>(s, runs, pixels, weights, sizeof(Element), acc);
  }
}

#if defined(RSQUANT_WIDE_BYTES)
// Runs of a window whose sums stay in registers: more are those of larger windows, whose sums take
// long enough.
constexpr int kWideRuns = 3;

// Levels of some pixels and one block of weights or two, V / 2, from `channel` on.
template <class Dot, int V>
inline void strip_levels(const ConvRun& run, const Runs& runs, const std::uint8_t* weights,
                         const std::uint8_t* const* window, std::int64_t group, int count, int y,
                         int x, int channel) {
  const Epilogue& e = run.epilogue;
  const WideWeights blocks = {weights, static_cast<std::int64_t>(block_bytes(run.shape))};
  std::int64_t offset[kWideRuns];
  for (int i = 0; i < runs.count; ++i) offset[i] = run_offset(run.shape, runs, i);
  const WideRuns wide = {runs.count, runs.elements / 4, offset};
  WideLevels<V> levels;
  make_wide_levels(e, channel, levels);
  constexpr int kStep = kWideStep<V>, kMost = kWidePixels<V>;
  int done = 0;
  for (int tiles = (count + kMost - 1) / kMost; tiles > 0; --tiles) {
    const int share = (count - done + tiles - 1) / tiles;
    // The last pixel of an odd number twice.
    const int pixels = (share + kStep - 1) / kStep * kStep;
    Pixels tile;
    std::uint8_t* out[kMost];
    for (int p = 0; p < pixels; ++p) {
      if (p >= share) {
        tile.window[p] = tile.window[p - 1], out[p] = out[p - 1];
        continue;
      }
      tile.window[p] = window[done + p] + group;
      out[p] = e.codes + y * e.codes_row + x * e.codes_pixel + channel;
      if (++x == run.shape.out_w) x = 0, ++y;
    }
    wide_levels_any<Dot, V>(e.thresholds, wide, tile, blocks, pixels, levels, out);
    done += share;
  }
}
#endif

// Some pixels, for each block of weights of the task; moves the cursor behind them. The epilogue
// takes them together: its tables are loaded once for all.
template <class Dot, class Element>
inline void strip(const ConvRun& run, const Runs& runs, const Range& range,
                  const std::uint8_t* weights, int count, Cursor& next) {
  const ConvShape& s = run.shape;
  const int y = next.y, x = next.x;
  const std::int64_t across =
      static_cast<std::int64_t>(s.stride_w) * s.pixel_bytes * sizeof(Element);
  const std::int64_t down = s.stride_h * row_bytes(s) * sizeof(Element) - s.out_w * across;
  const std::uint8_t* window[kStripPixels];
  for (int p = 0; p < count; ++p) {
    window[p] = next.window;
    next.window += across;
    if (++next.x == s.out_w) {
      next.x = 0, ++next.y;
      next.window += down;
    }
  }
  // Divisions are slow beside a small tile: group and channel are counted along.
  const int per_group = s.out_channels / s.groups;
  const std::int64_t group_bytes =
      static_cast<std::int64_t>(s.in_channels / s.groups) * sizeof(Element);
  int channel = range.channel, end = range.channel_end;
  std::int64_t group = range.group * group_bytes;
#if defined(RSQUANT_WIDE_BYTES)
  static_assert(2 * kBlock == kWideGroup);
  bool held = false;  // whether `accs` begins with the accumulators of the block before
#endif
  constexpr int kStrip = kStripPixels * kBlock;
  alignas(64) std::int32_t accs[2 * kStrip];
  for (int block = range.first; block < range.last; ++block) {
#if defined(RSQUANT_WIDE_BYTES)
    if constexpr (!Dot::kNarrow && sizeof(Element) == 1) {
      const bool pair = block + 1 < range.last && channel + 2 * kBlock <= end;
      const bool in_registers = !held && runs.count <= kWideRuns && channel + kBlock <= end &&
                                run.epilogue.words.tables != nullptr;
      if (in_registers) {
        const int blocks = pair ? 2 : 1;
        if (pair) {
          strip_levels<Dot, 4>(run, runs, weights, window, group, count, y, x, channel);
        } else {
          strip_levels<Dot, 2>(run, runs, weights, window, group, count, y, x, channel);
        }
        weights += blocks * range.block_bytes;
        channel += blocks * kBlock;
        block += blocks - 1;
        if (channel >= end) {
          channel = end;
          end += per_group;
          group += group_bytes;
        }
        continue;
      }
    }
#endif
    std::int32_t* acc = accs;
#if defined(RSQUANT_WIDE_BYTES)
    if (held) acc += kStrip;
#endif
    const bool half = tile_channels(end - channel) < kBlock;
    // Tiles of nearly one size: 9 pixels are 5 and 4, not 6 and 3.
    int done = 0;
    for (int tiles = (count + kTilePixels - 1) / kTilePixels; tiles > 0; --tiles) {
      const int pixels = (count - done + tiles - 1) / tiles;
      Pixels tile;
      for (int p = 0; p < pixels; ++p) tile.window[p] = window[done + p] + group;
      std::int32_t* to = acc + done * kBlock;
      if (half) {
        accumulate<Dot, Element, kHalfVectors, kTilePixels>(s, runs, tile, weights, pixels, to);
      } else {
        accumulate<Dot, Element, kTileVectors, kTilePixels>(s, runs, tile, weights, pixels, to);
      }
      done += pixels;
    }
#if defined(RSQUANT_WIDE_BYTES)
    if (held) {
      finish_wide(run.epilogue, s, accs, kBlock, kStrip, count, y, x, channel - kBlock);
      held = false;
    } else if (takes_wide(run.epilogue) && block + 1 < range.last && channel + 2 * kBlock <= end) {
      held = true;
    } else
#endif
      finish_channels(run.epilogue, s, acc, kBlock, count, y, x, channel, kBlock, end);
    weights += range.block_bytes * sizeof(Element);
    channel += kBlock;
    if (channel >= end) {
      channel = end;
      end += per_group;
      group += group_bytes;
    }
  }
}

template <class Dot, class Element>
void run_task(const ConvRun& run, int task, void* scratch) {
  const ConvShape& s = run.shape;
  const Runs runs = runs_of(s);
  const Range range = range_of(s, task, run.weights != nullptr);
  const std::uint8_t* weights = static_cast<const std::uint8_t*>(run.weights);
  if (weights == nullptr) {
    prepare_block<Element>(s, run.source, range.first, static_cast<Element*>(scratch));
    weights = static_cast<const std::uint8_t*>(scratch);
  } else {
    weights += static_cast<std::size_t>(range.first) * range.block_bytes * sizeof(Element);
  }
  const std::uint8_t* input =
      sizeof(Element) == 1 ? run.input : static_cast<const std::uint8_t*>(run.transformed);
  const int y = range.begin / s.out_w, x = range.begin % s.out_w;
  Cursor next = {y, x, input + window_offset(s, y, x) * static_cast<std::int64_t>(sizeof(Element))};
  for (int at = range.begin; at < range.end; at += kStripPixels) {
    const int count = range.end - at < kStripPixels ? range.end - at : kStripPixels;
    strip<Dot, Element>(run, runs, range, weights, count, next);
  }
}

template <class Element>
std::size_t weight_bytes(const ConvShape& s) {
  return block_bytes(s) * sizeof(Element) * s.groups * blocks_per_group(s);
}

template <class Element>
void prepare(const ConvShape& s, const ConvWeights& w, void* out) {
  for (int block = 0; block < s.groups * blocks_per_group(s); ++block) {
    prepare_block<Element>(s, w, block, static_cast<Element*>(out) + block * block_bytes(s));
  }
}

template <class Element>
std::size_t scratch_bytes(const ConvShape& s, bool prepared) {
  return prepared ? 0 : block_bytes(s) * sizeof(Element);
}

template <class Dot>
bool bytes_eligible(const ConvShape& s) {
  if (s.weight_limit > 127) return false;
  if constexpr (Dot::kNarrow) {
    return Dot::steps(s.input_limit, s.weight_limit) >= kFewestSteps;
  }
  return true;
}

// The input as 16-bit words in the same layout, a row a task.
std::size_t word_input(const ConvShape& s) {
  return static_cast<std::size_t>(s.in_h + 2 * s.border) * row_bytes(s) * 2 + 64;
}
int word_rows(const ConvShape& s) { return s.in_h + 2 * s.border; }
void to_words(const ConvShape& s, const std::uint8_t* input, void* out, int row) {
  const std::int64_t bytes = row_bytes(s);
  std::int16_t* words = static_cast<std::int16_t*>(out) + row * bytes;
  for (std::int64_t i = 0; i < bytes; ++i) words[i] = input[row * bytes + i];
}

bool always(const ConvShape&) { return true; }

// Float values to words, in the same layout with a border of 0. Adding 1.5 * 2^23 to a number below
// 2^22 rounds it to an integer, half to even, and leaves that in the low bits.
void to_fixed(const ConvShape& s, const float* from, std::int64_t count, std::int16_t* to) {
  const float factor = s.inverse_step, high = static_cast<float>(s.input_limit), low = -high;
  for (std::int64_t i = 0; i < count; ++i) {
    float v = from[i] * factor;
    v = v > low ? v : low;
    v = v < high ? v : high;
    to[i] = static_cast<std::int16_t>(__builtin_bit_cast(std::int32_t, v + 12582912.0f));
  }
}

void real_to_words(const ConvShape& s, const std::uint8_t* input, void* out, int row) {
  const std::int64_t words = row_bytes(s);
  std::int16_t* to = static_cast<std::int16_t*>(out) + row * words;
  const int y = row - s.border;
  if (y < 0 || y >= s.in_h) {
    std::memset(to, 0, static_cast<std::size_t>(words) * sizeof(*to));
    return;
  }
  const std::int64_t side = static_cast<std::int64_t>(s.border) * s.pixel_bytes;
  std::memset(to, 0, static_cast<std::size_t>(side) * sizeof(*to));
  std::memset(to + words - side, 0, static_cast<std::size_t>(side) * sizeof(*to));
  to += side;
  const std::int64_t row_floats = static_cast<std::int64_t>(s.in_w) * s.in_channels;
  const float* from = reinterpret_cast<const float*>(input) + y * row_floats;
  if (s.in_channels == s.pixel_bytes) {
    to_fixed(s, from, row_floats, to);
    return;
  }
  for (int x = 0; x < s.in_w; ++x, from += s.in_channels, to += s.pixel_bytes) {
    to_fixed(s, from, s.in_channels, to);
    for (int c = s.in_channels; c < s.pixel_bytes; ++c) to[c] = 0;
  }
}

}  // namespace

extern const ConvKernel direct;
extern const ConvKernel direct_float;
extern const ConvKernel direct_words;

const ConvKernel direct = {"direct",
                           bytes_eligible<ByteDot>,
                           weight_bytes<std::int8_t>,
                           prepare<std::int8_t>,
                           nullptr,
                           nullptr,
                           nullptr,
                           scratch_bytes<std::int8_t>,
                           tasks,
                           run_task<ByteDot, std::int8_t>,
                           true};

const ConvKernel direct_words = {"direct_words",
                                 always,
                                 weight_bytes<std::int16_t>,
                                 prepare<std::int16_t>,
                                 word_input,
                                 word_rows,
                                 to_words,
                                 scratch_bytes<std::int16_t>,
                                 tasks,
                                 run_task<WordDot, std::int16_t>,
                                 true};

const ConvKernel direct_float = {"direct_float",
                                 always,
                                 weight_bytes<std::int16_t>,
                                 prepare<std::int16_t>,
                                 word_input,
                                 word_rows,
                                 real_to_words,
                                 scratch_bytes<std::int16_t>,
                                 tasks,
                                 run_task<WordDot, std::int16_t>,
                                 true,
                                 true};

}  // namespace RSQUANT_ISA
}  // namespace rsquant
