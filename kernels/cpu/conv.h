// The convolution of a packed network: its geometry, the layouts it reads and writes, and what a
// convolution kernel is. Included by files compiled per instruction set: see kernels.h.
//
// Values. An image or an activation lies in memory as unsigned bytes, (H + 2 border, W + 2 border,
// C'), channels innermost, C' = C rounded up to a multiple of 4. The byte is an integer level of at
// most 127 (255 for an image and for values of 8 bits); the border holds the byte of the value 0.
// Bytes beyond C are unspecified and meet zero weights. 64 readable bytes
// follow the last row. Float values are (H, W, C) float32, no border; a convolution that reads one
// multiplies integers n = rint(x * inverse_step), half to even, limited to -input_limit ..
// input_limit, in 16 bits.
//
// Weights are integer levels, int8 (int16 for the image's), (O, kh, kw, C / groups), or the bit
// planes they came from.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rsquant {

// Geometry of one convolution at one size, and where its input lies.
struct ConvShape {
  int groups;
  int in_channels;   // of all groups
  int out_channels;  // of all groups
  int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int in_h, in_w;  // without border
  int out_h, out_w;
  int border;        // of the input in memory, in pixels; at least the padding
  int fill;          // the byte that the border holds
  int threads;       // that share the tasks; 0 where none run
  int pixel_bytes;   // C' of the input
  int input_limit;   // largest byte of the input, or largest size of n
  int weight_limit;  // largest absolute weight level
  int weight_bits;   // planes of the weights; 0: they come as levels
  // Input level = sum_j input_basis[j] c_j, c_j in {0, 1}; the byte is that level + the byte of 0.
  int input_bits;  // 0: any byte
  int input_basis[4];
  bool real;           // the input is float values; only for kernels that take these
  float inverse_step;  // of a float input
};

inline std::int64_t row_bytes(const ConvShape& s) {
  return static_cast<std::int64_t>(s.in_w + 2 * s.border) * s.pixel_bytes;
}

// Offset of the input byte under the kernel's first tap, at output pixel (y, x), channel 0.
inline std::int64_t window_offset(const ConvShape& s, int y, int x) {
  return (static_cast<std::int64_t>(y) * s.stride_h - s.pad_h + s.border) * row_bytes(s) +
         (static_cast<std::int64_t>(x) * s.stride_w - s.pad_w + s.border) * s.pixel_bytes;
}

// Weights as they come: int8 levels, or planes of bits with the integer basis of each channel:
// level = offset[o] + sum_k basis[o][k] * bit_k, from -127 to 127.
struct ConvWeights {
  const std::int8_t* levels;   // (O, kh, kw, C / groups), or null
  const std::uint8_t* planes;  // (K, O, plane_bytes), or null; bit i of a row is tap i
  const std::int16_t* basis;   // (O, K)
  const std::int8_t* offset;   // (O)
  int bits;                    // K
  std::int64_t plane_bytes;    // a multiple of 8
  const std::int16_t* words;   // levels of 16 bits, or null
};

constexpr int kMaxThresholds = 15;

// What happens to an accumulator before it leaves the kernel, all float32, in this order, without
// fused multiply-add:
//   v = (acc - correction) * scale + shift;  v += add;  keep = min(max(v, low), high)
//   byte = base + sign * sum_k (x > threshold_k ? step_k : 0)      x = acc (integer), else v
// With `integer`, the correction is part of the thresholds, and add and keep are null. Arrays per
// channel hold all output channels, and zeros up to padded_channels of them.
constexpr int kChannelBlock = 64;

// Kernels load whole vectors, of up to 31 channels behind the last of a group, which may itself end
// with any channel.
constexpr int padded_channels(int channels) {
  return (channels + 31 + kChannelBlock - 1) / kChannelBlock * kChannelBlock;
}

// Levels by how many of 15 ascending thresholds a number exceeds:
//   byte = lowest + values[(passed ^ turned) + first]     modulo 256
// Tables per channel as of an Epilogue, of bytes, one behind the other, each `padded` long: turned,
// first, lowest.
struct Ranks {
  const std::uint8_t* tables;  // or null
  const std::uint8_t* values;  // 16, the same for all channels
  std::int64_t padded;
};
constexpr int kRankTables = 3, kRankValues = kMaxThresholds + 1;

// What happens to an accumulator that becomes a byte (docs/integer.md), float32 without fused
// multiply-add, halves to even:
//   code = min(max(round(factor * float(acc + bias)), low), high)
//   byte = min(max(code + offset + byte of `add`, least), most)
// (without `add`, low + offset is least and high + offset is most)
//   level = base + sum_k (byte - 128 > threshold_k ? step_k : 0)     modulo 256
// Arrays per channel as of an Epilogue. Strides are bytes, from row to row and pixel to pixel.
struct ByteEpilogue {
  const std::int32_t* bias;
  const float* factor;
  const std::int16_t* words;  // the factors times 2^15, or null; see byte_words.h
  bool short_bias;            // with these: every bias fits 16 bits
  bool large;                 // some |factor| is 1 or more: round() might not fit 32 bits
  bool same;                  // of a map: the code is that of its byte
  std::int16_t low, high;
  std::int16_t offset;
  const std::uint8_t* add;  // channel 0 of output pixel (0, 0), or null
  std::int64_t add_row, add_pixel;
  std::int16_t least, most;
  std::uint8_t* keep;  // or null
  std::int64_t keep_row, keep_pixel;
  std::uint8_t* codes;  // or null
  std::int64_t codes_row, codes_pixel;
  int thresholds;  // L - 1: 0 (no codes), 1, 3, 7 or 15
  const std::int8_t* threshold[kMaxThresholds];
  const std::uint8_t* step[kMaxThresholds];
  const std::uint8_t* base;
  Ranks ranks;  // the same as 15 thresholds, or null
};

// Thresholds of an accumulator in 16 bits, where those of each channel lie close enough together:
//   x = min(max(acc + shift, -32768), 32767)
//   byte = base + sum_k (x > threshold_k ? step_k : 0)
// Arrays per channel as of an Epilogue; those of 16 bits one behind the other, each `padded` long:
// T thresholds, T steps, base. Where no sum leaves 16 bits, every shift is 0.
//
// Of 15 thresholds, which then ascend in every channel, `ranks` tells the same.
struct WordLevels {
  const std::int32_t* shift;
  bool short_shift;            // every shift fits 16 bits
  const std::int16_t* tables;  // or null
  std::int64_t padded;
  Ranks ranks;
};

struct Epilogue {
  const std::int32_t* correction;
  const float* scale;
  const float* shift;
  const float* add;  // (pixels, O) or null
  float low, high;
  float* keep;                          // (pixels, O) or null; may be `add`, so write each once
  std::uint8_t* codes;                  // channel 0 of output pixel (0, 0), or null
  std::int64_t codes_row, codes_pixel;  // bytes from row to row, from pixel to pixel
  bool integer;
  bool plain;                             // correction is 0 everywhere, low and high are infinite
  int thresholds;                         // L - 1: 0 (no codes), 1, 3, 7 or 15
  const void* threshold[kMaxThresholds];  // int32 or float32, per channel
  std::int32_t step[kMaxThresholds];
  const std::int32_t* base;
  const std::int32_t* sign;  // +1 or -1
  WordLevels words;          // the same as the integer thresholds, or null
  bool to_bytes;             // nothing of the above, but what follows
  ByteEpilogue bytes;
};

// One run of one kernel: everything a task needs.
struct ConvRun {
  ConvShape shape;
  const std::uint8_t* input;  // byte (0, 0) of the border; of floats, which have none, pixel (0, 0)
  const void* transformed;    // what transform_input wrote
  const void* weights;        // what prepare wrote; null: prepare each block when it is needed
  ConvWeights source;
  Epilogue epilogue;
};

// A way to compute a convolution. Functions with a task number may run at the same time.
struct ConvKernel {
  const char* name;
  // Whether it can compute this shape exactly; see `takes`.
  bool (*eligible)(const ConvShape&);
  // Weights in the kernel's own layout, `weight_bytes` of them, aligned to 64.
  std::size_t (*weight_bytes)(const ConvShape&);
  void (*prepare)(const ConvShape&, const ConvWeights&, void* out);
  // The input in the kernel's own layout, for all threads; null where it has none.
  std::size_t (*input_bytes)(const ConvShape&);
  int (*input_tasks)(const ConvShape&);
  void (*transform_input)(const ConvShape&, const std::uint8_t* input, void* out, int task);
  // Work of each thread: bytes of scratch aligned to 64. With `prepared` false, run gets no
  // weights and prepares them itself from `source`; null `low_memory`: it cannot.
  std::size_t (*scratch_bytes)(const ConvShape&, bool prepared);
  int (*tasks)(const ConvShape&, bool prepared);
  void (*run)(const ConvRun&, int task, void* scratch);
  bool low_memory;    // can run without prepared weights
  bool real = false;  // takes float values, and nothing else
  // What each thread does before its first task of a run, to the scratch of its tasks; or null.
  void (*begin)(const ConvRun&, void* scratch) = nullptr;
};

// In low memory, too, each layout of up to so many bytes is made and kept, of windows of one tap up
// to 17 / 20 of it: where many pixels share few weights, unpacking these takes as long as
// their products. (A ResNet-18 stays within 1.15 times of its time at full memory with these
// limits, a ResNet-50 within that and a third of the memory of onnxruntime.) Tests have smaller
// networks.
#if !defined(RSQUANT_SMALL_LAYOUT)
#define RSQUANT_SMALL_LAYOUT (416 * 1024)
#endif
constexpr std::size_t kSmallLayout = RSQUANT_SMALL_LAYOUT;

inline bool has_small_layout(const ConvKernel& kernel, const ConvShape& shape) {
  const bool one_tap = shape.kernel_h == 1 && shape.kernel_w == 1;
  return kernel.weight_bytes(shape) <= (one_tap ? kSmallLayout / 20 * 17 : kSmallLayout);
}

// Whether a kernel can compute a convolution exactly.
inline bool takes(const ConvKernel& kernel, const ConvShape& shape) {
  return kernel.real == shape.real && kernel.eligible(shape);
}

}  // namespace rsquant
