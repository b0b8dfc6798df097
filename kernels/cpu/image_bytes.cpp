// The convolution of the image in bytes, where its weights are small (integer networks, at most
// 64).
//
// VPMADDUBSW multiplies pixels, 0 to 255, with int8 weights; a pair of products fits its 16 bits,
// 2 * 255 * 64 < 32,767. How many pairs more a 16-bit sum holds depends on the weights under them:
// with p and n the sums of their positive and of their negative weights in size, it lies in
//
//   -255 n .. 255 p,  which is 65,536 numbers or fewer where  255 (p + n) <= 65,535.
//
// Begun with 255 n - 32,768, such a sum fits. Two steps of a window (4 bytes each) always do, four
// mostly: the sums of such groups are added to 32-bit ones, which begin with what undoes the
// beginnings. A group costs three instructions a vector, a step two, for twice the products of
// 16-bit words. VPDPBUSD sums four products in 32 bits: no groups, no beginnings.
//
// The input is rewritten as bytes R, G, B, R, ...: a row of 7 taps is 5 steps of 4 bytes, and 1
// byte is left, the last tap's blue. With a stride of 2 or more there is a second copy for these,
// of four rows' blue side by side: 7 x 7 taps are 35 + 2 steps, not 49. The border holds the byte
// of zero, so every window is whole.
//
//   first copy    │ R G B R │ G B R G │ B ..          5 steps of each row of the window
//   second copy   │ B of rows y, y + 1, y + 2, y + 3 │ at the place of the pixel's R in the first

#include "simd.h"

#if defined(RSQUANT_IMAGE_BYTES)

#include "direct_tile.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kColors = 3;
constexpr int kStep = 4;  // bytes
constexpr int kMostPixel = 255;
constexpr int kMostWeight = 64;
// A tile. With sums of 32 bits it has all 64 channels that a first convolution mostly has: a
// pixel's bytes are read once, and the epilogue takes 64 channels.
constexpr int kImageVectors = ByteDot::kNarrow ? kTileVectors : 2 * kTileVectors;
constexpr int kImagePixels = ByteDot::kNarrow ? kTilePixels : kTilePixels / 2;
constexpr int kImageChannels = kImageVectors * kLanes;
static_assert(kChannelBlock % kImageChannels == 0,
              "tables per channel are filled up to whole blocks");
constexpr int kSumLanes = 2 * kImageChannels;  // of 16 bits
// Steps of a group: four products of at most 64 always fit, 255 * 256 <= 65,535.
constexpr int kMostGroup = 4, kLeastGroup = 2;

// Not std::min: see the warning in kernels.h.
inline int least(int a, int b) { return a < b ? a : b; }

// Whether the last byte of each row is multiplied in steps down its column: of pixels next to each
// other the four bytes would overlap.
inline bool has_columns(const ConvShape& s) {
  return s.kernel_w * kColors % kStep == 1 && s.stride_w > 1;
}
inline int row_steps(const ConvShape& s) {
  return (s.kernel_w * kColors + (has_columns(s) ? 0 : kStep - 1)) / kStep;
}
inline int column_steps(const ConvShape& s) {
  return has_columns(s) ? (s.kernel_h + kStep - 1) / kStep : 0;
}
inline int steps_of(const ConvShape& s) { return s.kernel_h * row_steps(s) + column_steps(s); }

// Bytes from row to row: vectors of 16 are stored, the last of them beyond the row's end.
inline std::int64_t packed_row(const ConvShape& s) {
  return (static_cast<std::int64_t>(s.in_w + 2 * s.border) * kColors + 31) / 16 * 16;
}

// Weights as small as these are those of integer networks: 0 in the fourth channel.
bool eligible(const ConvShape& s) {
  return s.groups == 1 && s.in_channels == kColors + 1 && s.input_limit == kMostPixel &&
         s.weight_bits == 0 && s.weight_limit <= kMostWeight && s.dilation_h == 1 &&
         s.dilation_w == 1;
}

// --- Weights ---

// A block of kImageChannels output channels: where 32-bit sums begin, (kImageChannels) int32; steps
// of a group, int32; for each group where its 16-bit sums begin, (kSumLanes) int16; then the
// weights, [step][channel][4]. The last group may be smaller. With sums of 32 bits: the weights.
struct Layout {
  int steps;
  std::int64_t group, begins, weights, bytes;

  explicit Layout(const ConvShape& s)
      : steps(steps_of(s)),
        group(ByteDot::kNarrow ? kImageChannels * 4 : 0),
        begins(ByteDot::kNarrow ? group + 64 : 0),
        weights(ByteDot::kNarrow
                    ? begins + std::int64_t{steps + kLeastGroup - 1} / kLeastGroup * kSumLanes * 2
                    : 0),
        bytes(weights + std::int64_t{steps} * kImageChannels * kStep) {}
};

inline int blocks_of(const ConvShape& s) {
  return (s.out_channels + kImageChannels - 1) / kImageChannels;
}

// Whether sums of 16 bits hold `group` steps of every channel, wherever they begin to count.
bool fits(const std::int8_t* weights, int steps, int group) {
  for (int first = 0; first < steps; first += group) {
    for (int lane = 0; lane < kSumLanes; ++lane) {
      int all = 0;
      for (int i = first; i < least(first + group, steps); ++i) {
        const std::int8_t* pair = weights + std::int64_t{i} * kImageChannels * kStep + 2 * lane;
        all += (pair[0] < 0 ? -pair[0] : pair[0]) + (pair[1] < 0 ? -pair[1] : pair[1]);
      }
      if (kMostPixel * all > 65535) return false;
    }
  }
  return true;
}

// Where the sums of a block begin.
void make_begins(const ConvShape& s, std::uint8_t* block) {
  const Layout layout(s);
  const std::int8_t* weights = reinterpret_cast<std::int8_t*>(block + layout.weights);
  std::int32_t* start = reinterpret_cast<std::int32_t*>(block);
  std::int16_t* begin = reinterpret_cast<std::int16_t*>(block + layout.begins);
  int group = kMostGroup;
  while (group > kLeastGroup && !fits(weights, layout.steps, group)) --group;
  std::memcpy(block + layout.group, &group, sizeof(group));
  for (int first = 0; first < layout.steps; first += group) {
    for (int lane = 0; lane < kSumLanes; ++lane, ++begin) {
      int negative = 0;
      for (int i = first; i < least(first + group, layout.steps); ++i) {
        const std::int8_t* pair = weights + std::int64_t{i} * kImageChannels * kStep + 2 * lane;
        negative += (pair[0] < 0 ? -pair[0] : 0) + (pair[1] < 0 ? -pair[1] : 0);
      }
      *begin = static_cast<std::int16_t>(kMostPixel * negative - 32768);
      start[lane / 2] -= *begin;
    }
  }
}

void prepare_block(const ConvShape& s, const ConvWeights& w, int block, std::uint8_t* out) {
  const Layout layout(s);
  std::memset(out, 0, static_cast<std::size_t>(layout.bytes));
  std::int8_t* weights = reinterpret_cast<std::int8_t*>(out + layout.weights);
  const int first = block * kImageChannels, exist = least(kImageChannels, s.out_channels - first);
  const int of_row = row_steps(s) * kStep, of_rows = s.kernel_h * of_row;
  for (int o = 0; o < exist; ++o) {
    const std::int16_t* from =
        w.words + std::int64_t{first + o} * s.kernel_h * s.kernel_w * (kColors + 1);
    for (int ky = 0; ky < s.kernel_h; ++ky) {
      for (int kx = 0; kx < s.kernel_w; ++kx, from += kColors + 1) {
        for (int c = 0; c < kColors; ++c) {
          const int in_row = kx * kColors + c;
          const int i = in_row < of_row ? ky * of_row + in_row : of_rows + ky;
          weights[(std::int64_t{i / kStep} * kImageChannels + o) * kStep + i % kStep] =
              static_cast<std::int8_t>(from[c]);
        }
      }
    }
  }
  if (ByteDot::kNarrow) make_begins(s, out);
}

std::size_t weight_bytes(const ConvShape& s) {
  return static_cast<std::size_t>(Layout(s).bytes * blocks_of(s));
}

void prepare(const ConvShape& s, const ConvWeights& w, void* out) {
  for (int block = 0; block < blocks_of(s); ++block) {
    prepare_block(s, w, block, static_cast<std::uint8_t*>(out) + block * Layout(s).bytes);
  }
}

// --- Input ---

int input_rows(const ConvShape& s) { return s.in_h + 2 * s.border; }

inline std::int64_t copy_bytes(const ConvShape& s) { return input_rows(s) * packed_row(s); }

// Behind the rows, what the last step of a window may read.
std::size_t input_bytes(const ConvShape& s) {
  return static_cast<std::size_t>(copy_bytes(s) * (has_columns(s) ? 2 : 1)) + 64;
}

// The second copy's row: of each output pixel the blue of its last tap, and of that in the three
// rows below. Rows where no step begins are left out, pixels below the input meet weights of 0.
void to_columns(const ConvShape& s, const std::uint8_t* input, std::uint8_t* to, int row) {
  const int first = s.border - s.pad_h;
  if (kStep % s.stride_h == 0 && (row - first) % s.stride_h != 0) return;
  const std::uint8_t* in[kStep];
  for (int i = 0; i < kStep; ++i) in[i] = input + least(row + i, input_rows(s) - 1) * row_bytes(s);
  const int column = s.border - s.pad_w + s.kernel_w - 1;
  for (int x = 0; x < s.out_w; ++x) {
    const std::int64_t at = column + std::int64_t{x} * s.stride_w;
    for (int i = 0; i < kStep; ++i) to[at * kColors + i] = in[i][4 * at + 2];
  }
}

void to_three(const ConvShape& s, const std::uint8_t* input, void* out, int row) {
  const std::uint8_t* in = input + row * row_bytes(s);
  std::uint8_t* to = static_cast<std::uint8_t*>(out) + row * packed_row(s);
  const int width = s.in_w + 2 * s.border;
  const __m128i order = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  // Behind a row of the input there are readable bytes (conv.h).
  for (int x = 0; x < width; x += 4) {
    const __m128i four = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + 4 * x));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + kColors * x), _mm_shuffle_epi8(four, order));
  }
  if (has_columns(s)) to_columns(s, input, to + copy_bytes(s), row);
}

// --- The kernel ---

// Accumulators of P pixels and one block of output channels, in groups of G steps. offset: of each
// step, from a window's first byte. Not inlined: see direct.cpp.
template <int P, int G>
[[gnu::noinline]] void accumulate(const Pixels& pixels, const std::int32_t* offset,
                                  const Layout& layout, const std::uint8_t* block,
                                  std::int32_t* acc) {
  const std::uint8_t *begins = block + layout.begins, *weights = block + layout.weights;
  const std::uint8_t* at[P];
  for (int p = 0; p < P; ++p) at[p] = pixels.window[p];
  bool first = true;
  const auto add_group = [&]<int N>() __attribute__((always_inline)) {
    ByteDot::Sum sum[P][kImageVectors];
    for (int v = 0; v < kImageVectors; ++v) {
      const Ints begin = load(begins + static_cast<std::size_t>(v) * sizeof(Ints));
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) sum[p][v] = begin;
    }
    begins += kImageVectors * sizeof(Ints);
#pragma GCC unroll 4
    for (int g = 0; g < N; ++g) {
      Ints w[kImageVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kImageVectors; ++v) {
        w[v] = load(weights + static_cast<std::size_t>(g * kImageVectors + v) * sizeof(Ints));
      }
      const std::int64_t from = offset[g];
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        std::int32_t four;
        std::memcpy(&four, at[p] + from, kStep);
        const Ints a = broadcast(four);
#pragma GCC unroll 4
        for (int v = 0; v < kImageVectors; ++v) {
          sum[p][v] = ByteDot::step(sum[p][v], a, w[v]);
#if defined(__AVX512F__) || defined(RSQUANT_AVX2)  // no such register where it is emulated
          asm("" : "+v"(sum[p][v]));  // or GCC adds in an order that needs more registers
#endif
        }
      }
    }
    weights += N * kImageVectors * sizeof(Ints);
    offset += N;
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < kImageVectors; ++v) {
        std::int32_t* to = acc + p * kImageChannels + v * kLanes;
        const void* before = first ? static_cast<const void*>(block + v * sizeof(Ints)) : to;
        store(to, add(load(before), ByteDot::widen(sum[p][v])));
      }
    }
    first = false;
  };
  int left = layout.steps;
  for (; left >= G; left -= G) add_group.template operator()<G>();
  if (G > 3 && left == 3) add_group.template operator()<3>();
  if (G > 2 && left == 2) add_group.template operator()<2>();
  if (left == 1) add_group.template operator()<1>();
}

// The same where sums have 32 bits and hold all steps.
template <int P>
[[gnu::noinline]] void accumulate_whole(const Pixels& pixels, const std::int32_t* offset,
                                        const Layout& layout, const std::uint8_t* weights,
                                        std::int32_t* acc) {
  ByteDot::Sum sum[P][kImageVectors];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kImageVectors; ++v) sum[p][v] = ByteDot::Sum{};
  }
  for (int i = 0; i < layout.steps; ++i, weights += kImageChannels * kStep) {
    Ints w[kImageVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kImageVectors; ++v) {
      w[v] = load(weights + static_cast<std::size_t>(v) * sizeof(Ints));
    }
    const std::int64_t from = offset[i];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      std::int32_t four;
      std::memcpy(&four, pixels.window[p] + from, kStep);
      const Ints a = broadcast(four);
#pragma GCC unroll 4
      for (int v = 0; v < kImageVectors; ++v) sum[p][v] = ByteDot::step(sum[p][v], a, w[v]);
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < kImageVectors; ++v) store(acc + p * kImageChannels + v * kLanes, sum[p][v]);
  }
}

template <int P>
inline void accumulate_any(int count, const Pixels& pixels, const std::int32_t* offset,
                           const Layout& layout, const std::uint8_t* block, std::int32_t* acc) {
  if constexpr (P > 1) {
    if (count < P) return accumulate_any<P - 1>(count, pixels, offset, layout, block, acc);
  }
  if constexpr (!ByteDot::kNarrow) {
    accumulate_whole<P>(pixels, offset, layout, block, acc);
  } else {
    int group;
    std::memcpy(&group, block + layout.group, sizeof(group));
    const auto run = group == 4   ? accumulate<P, 4>
                     : group == 3 ? accumulate<P, 3>
                                  : accumulate<P, 2>;
    run(pixels, offset, layout, block, acc);
  }
}

// Pixels that the epilogue takes together, and a task; as in image.cpp.
constexpr int kStripPixels = 4 * kTilePixels;
constexpr int kTaskPixels = 4 * kStripPixels;

int tasks(const ConvShape& s, bool prepared) {
  return prepared ? (s.out_h * s.out_w + kTaskPixels - 1) / kTaskPixels : blocks_of(s);
}

inline std::size_t offset_bytes(const ConvShape& s) {
  return (static_cast<std::size_t>(Layout(s).steps) * 4 + 63) / 64 * 64;
}

std::size_t scratch_bytes(const ConvShape& s, bool prepared) {
  return offset_bytes(s) + (prepared ? 0 : static_cast<std::size_t>(Layout(s).bytes));
}

void run_task(const ConvRun& run, int task, void* scratch) {
  const ConvShape& s = run.shape;
  const Layout layout(s);
  std::int32_t* offset = static_cast<std::int32_t*>(scratch);
  const int of_rows = s.kernel_h * row_steps(s);
  for (int i = 0; i < layout.steps; ++i) {
    if (i < of_rows) {
      const int ky = i / row_steps(s);
      offset[i] = static_cast<std::int32_t>(ky * packed_row(s)) + i % row_steps(s) * kStep;
    } else {
      const std::int64_t row = (i - of_rows) * kStep;
      offset[i] = static_cast<std::int32_t>(copy_bytes(s) + row * packed_row(s)) +
                  (s.kernel_w - 1) * kColors;
    }
  }
  int begin = 0, end = s.out_h * s.out_w, first = 0, last = blocks_of(s);
  const std::uint8_t* weights = static_cast<const std::uint8_t*>(run.weights);
  if (weights == nullptr) {
    std::uint8_t* own = static_cast<std::uint8_t*>(scratch) + offset_bytes(s);
    prepare_block(s, run.source, task, own);
    weights = own, first = task, last = task + 1;
  } else {
    begin = task * kTaskPixels;
    end = least(end, begin + kTaskPixels);
  }
  int y = begin / s.out_w, x = begin % s.out_w;
  const std::uint8_t* corner = static_cast<const std::uint8_t*>(run.transformed) +
                               (s.border - s.pad_h) * packed_row(s) +
                               std::int64_t{s.border - s.pad_w} * kColors;
  for (int at = begin; at < end; at += kStripPixels) {
    const int count = least(kStripPixels, end - at), from_y = y, from_x = x;
    const std::uint8_t* window[kStripPixels];
    for (int p = 0; p < count; ++p) {
      window[p] = corner + std::int64_t{y} * s.stride_h * packed_row(s) +
                  std::int64_t{x} * s.stride_w * kColors;
      if (++x == s.out_w) x = 0, ++y;
    }
    const std::uint8_t* of_block = weights;
    for (int block = first; block < last; ++block, of_block += layout.bytes) {
      alignas(64) std::int32_t acc[kStripPixels * kImageChannels];
      // Tiles of nearly one size: 9 pixels are 5 and 4, not 6 and 3.
      int done = 0;
      for (int tiles = (count + kImagePixels - 1) / kImagePixels; tiles > 0; --tiles) {
        const int pixels = (count - done + tiles - 1) / tiles;
        Pixels tile;
        for (int p = 0; p < pixels; ++p) tile.window[p] = window[done + p];
        accumulate_any<kImagePixels>(pixels, tile, offset, layout, of_block,
                                     acc + done * kImageChannels);
        done += pixels;
      }
      finish_channels(run.epilogue, s, acc, kImageChannels, count, from_y, from_x,
                      block * kImageChannels, kImageChannels, s.out_channels);
    }
  }
}

}  // namespace

extern const ConvKernel image_bytes;

const ConvKernel image_bytes = {"image_bytes", eligible,   weight_bytes, prepare,
                                input_bytes,   input_rows, to_three,     scratch_bytes,
                                tasks,         run_task,   true};

}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
