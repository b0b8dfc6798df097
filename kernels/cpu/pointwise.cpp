// The classifier and elementwise steps. They touch little data: plain loops that the compiler
// vectorises, but for levels of maps by 15 thresholds; sums keep the order that pointwise.h
// promises.

#include "pointwise.h"

#include <cstring>

#include "byte_levels.h"
#include "epilogue.h"
#include "ranks.h"
#include "register_bytes.h"
#include "thresholds.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Values alone, without an addition and codes: a loop that the compiler vectorises.
template <class T>
void scale_row(const Epilogue& e, const ConvShape& s, const std::uint8_t* from, int pixel_bytes,
               int y) {
  const float* __restrict scale = e.scale;
  const float* __restrict shift = e.shift;
  for (int x = 0; x < s.out_w; ++x) {
    const T* in = reinterpret_cast<const T*>(from + static_cast<std::int64_t>(x) * pixel_bytes);
    const std::int64_t at = (static_cast<std::int64_t>(y) * s.out_w + x) * s.out_channels;
    float* __restrict out = e.keep + at;
    for (int c = 0; c < s.out_channels; ++c) {
      float v = static_cast<float>(in[c]) * scale[c];
      v = v + shift[c];
      v = v > e.low ? v : e.low;
      out[c] = v < e.high ? v : e.high;
    }
  }
}

// 16 channels of a pixel, from `channel` on; null: nowhere.
inline void map_group(const Epilogue& e, const float* x, int channel, const float* added,
                      float* keep, std::uint8_t* codes) {
  Ints level[kVectors];
  for (int i = 0; i < kVectors; ++i) {
    const int here = channel + i * kLanes;
    Floats v = multiply(load(x + i * kLanes), load(e.scale + here));
    v = add(v, load(e.shift + here));
    if (added != nullptr) v = add(v, load(added + i * kLanes));
    if (codes != nullptr) {
      Ints passed = broadcast(0);
      for (int k = 0; k < e.thresholds; ++k) {
        const Floats threshold = load(static_cast<const float*>(e.threshold[k]) + here);
        passed = add(passed, and_greater(v, threshold, broadcast(e.step[k])));
      }
      level[i] = add(load(e.base + here), multiply_sign(passed, load(e.sign + here)));
    }
    v = smallest(largest(v, broadcast(e.low)), broadcast(e.high));
    if (keep != nullptr) store(keep + i * kLanes, v);
  }
  if (codes != nullptr) store_bytes(codes, level);
}

template <class T>
void map_row(const Epilogue& e, const ConvShape& s, const std::uint8_t* from, int pixel_bytes,
             int y) {
  for (int x = 0; x < s.out_w; ++x) {
    const T* in = reinterpret_cast<const T*>(from + static_cast<std::int64_t>(x) * pixel_bytes);
    const std::int64_t at = (static_cast<std::int64_t>(y) * s.out_w + x) * s.out_channels;
    std::uint8_t* codes =
        e.codes == nullptr ? nullptr : e.codes + y * e.codes_row + x * e.codes_pixel;
    int c = 0;
    for (; c + kGroup <= s.out_channels; c += kGroup) {
      float group[kGroup];
      const float* values = group;
      if constexpr (sizeof(T) == sizeof(float)) {
        values = reinterpret_cast<const float*>(in) + c;
      } else {
        for (int i = 0; i < kGroup; ++i) group[i] = static_cast<float>(in[c + i]);
      }
      map_group(e, values, c, e.add == nullptr ? nullptr : e.add + at + c,
                e.keep == nullptr ? nullptr : e.keep + at + c,
                codes == nullptr ? nullptr : codes + c);
    }
    for (; c < s.out_channels; ++c) {
      float v = static_cast<float>(in[c]) * e.scale[c];
      v = v + e.shift[c];
      if (e.add != nullptr) v = v + e.add[at + c];
      if (codes != nullptr) {
        std::int32_t passed = 0;
        for (int k = 0; k < e.thresholds; ++k) {
          passed += v > static_cast<const float*>(e.threshold[k])[c] ? e.step[k] : 0;
        }
        codes[c] = static_cast<std::uint8_t>(e.base[c] + e.sign[c] * passed);
      }
      v = v > e.low ? v : e.low;
      if (e.keep != nullptr) e.keep[at + c] = v < e.high ? v : e.high;
    }
  }
}

// Levels of a row of bytes, 16 channels of all its pixels at a time.
template <int T>
void level_row(const ByteEpilogue& e, const ConvShape& s, const std::uint8_t* in, int pixel,
               int row) {
  std::uint8_t* out = e.codes + row * e.codes_row;
  for (int c = 0; c < s.out_channels; c += kGroup) {
    SignedBytes16 threshold[T];
    Bytes16 step[T];
    for (int k = 0; k < T; ++k) {
      threshold[k] = (SignedBytes16)load16(e.threshold[k] + c);
      step[k] = load16(e.step[k] + c);
    }
    const Bytes16 base = load16(e.base + c);
    const std::size_t exist = static_cast<std::size_t>(s.out_channels - c);
    for (int x = 0; x < s.out_w; ++x) {
      const std::uint8_t* from = in + static_cast<std::int64_t>(x) * pixel + c;
      const Bytes16 levels = levels_of<T>(load16(from), threshold, step, base);
      std::uint8_t* to = out + x * e.codes_pixel + c;
      if (exist >= kGroup) {
        store16(to, levels);
      } else {
        std::memcpy(to, &levels, exist);
      }
    }
  }
}

#if defined(RSQUANT_WIDE_BYTES)
// The same of 15 thresholds that are in order, kChannels channels from `c` on.
template <int kChannels>
void ranked_row(const ByteEpilogue& e, const ConvShape& s, const std::uint8_t* in, int pixel,
                int row, int c) {
  typedef RegisterBytes<kChannels> Wide;
  Ints threshold[kMaxThresholds];
  for (int k = 0; k < kMaxThresholds; ++k) threshold[k] = Wide::table(e.threshold[k] + c);
  const RankBytes ranks = rank_bytes(e.ranks, c, Wide::table);
  const auto mask = Wide::mask(s.out_channels - c);
  const Ints flip = _mm512_set1_epi8(-128);
  std::uint8_t* out = e.codes + row * e.codes_row + c;
  in += c;
  for (int left = s.out_w; left > 0; left -= Wide::kPixels) {
    const Ints bytes = Wide::load(in, pixel, left, mask);
    const Ints passed =
        passed_of_15<Bytes8>(_mm512_xor_si512(bytes, flip), [&](int k) { return threshold[k]; });
    Wide::store(out, e.codes_pixel, left, mask, ranks.levels(passed));
    in += Wide::kPixels * pixel;
    out += Wide::kPixels * e.codes_pixel;
  }
}

void ranked_rows(const ByteEpilogue& e, const ConvShape& s, const std::uint8_t* in, int pixel,
                 int row) {
  int c = 0;
  for (; s.out_channels - c > 32; c += 64) ranked_row<64>(e, s, in, pixel, row, c);
  for (; s.out_channels - c > 16; c += 32) ranked_row<32>(e, s, in, pixel, row, c);
  for (; s.out_channels > c; c += 16) ranked_row<16>(e, s, in, pixel, row, c);
}
#endif

void map_levels(const ByteEpilogue& e, const ConvShape& s, const std::uint8_t* in, int pixel,
                int row) {
#if defined(RSQUANT_WIDE_BYTES)
  if (e.ranks.tables != nullptr) return ranked_rows(e, s, in, pixel, row);
#endif
  as_compiled(e.thresholds, [&]<int T>() { level_row<T>(e, s, in, pixel, row); });
}

// `count` bytes plus others, or plus nothing, and a constant, within limits.
void add_bytes(const std::uint8_t* x, const std::uint8_t* added, std::int64_t count, int more,
               int least, int most, std::uint8_t* out) {
  const auto sum = [&](std::int64_t i, int other) {
    const std::int16_t all = static_cast<std::int16_t>(x[i] + other + more);
    const std::int16_t low = static_cast<std::int16_t>(all > least ? all : least);
    out[i] = static_cast<std::uint8_t>(low < most ? low : most);
  };
  if (added == nullptr) {
    for (std::int64_t i = 0; i < count; ++i) sum(i, 0);
  } else {
    for (std::int64_t i = 0; i < count; ++i) sum(i, added[i]);
  }
}

// A row of bytes whose codes stay what they are, and what is added to them.
void sum_row(const ByteEpilogue& e, const ConvShape& s, const std::uint8_t* in, int pixel,
             int row) {
  const int more = e.offset + e.low;  // the zero point of what comes in is -low
  const std::uint8_t* added = e.add == nullptr ? nullptr : e.add + row * e.add_row;
  std::uint8_t* out = e.keep + row * e.keep_row;
  if (e.keep_pixel == pixel && (added == nullptr || e.add_pixel == pixel)) {
    return add_bytes(in, added, std::int64_t{s.out_w} * pixel, more, e.least, e.most, out);
  }
  for (int x = 0; x < s.out_w; ++x) {
    add_bytes(in + static_cast<std::int64_t>(x) * pixel,
              added == nullptr ? nullptr : added + x * e.add_pixel, s.out_channels, more, e.least,
              e.most, out + x * e.keep_pixel);
  }
}

void map_same(const ByteEpilogue& e, const ConvShape& s, const std::uint8_t* in, int pixel,
              int row) {
  if (e.keep == nullptr) return map_levels(e, s, in, pixel, row);
  sum_row(e, s, in, pixel, row);
  if (e.codes == nullptr) return;
  map_levels(e, s, e.keep + row * e.keep_row, static_cast<int>(e.keep_pixel), row);
}

// Bytes to bytes: 64 times them are the accumulators, 16 channels of some pixels at a time.
void map_bytes(const Epilogue& e, const ConvShape& s, const std::uint8_t* in, int pixel, int row) {
  constexpr std::int32_t kWeight = 64;
  for (int x = 0; x < s.out_w; x += kMostPixels) {
    const int count = s.out_w - x < kMostPixels ? s.out_w - x : kMostPixels;
    for (int c = 0; c < s.out_channels; c += kGroup) {
      alignas(64) std::int32_t acc[kMostPixels * kGroup];
      for (int p = 0; p < count; ++p) {
        const std::uint8_t* from = in + static_cast<std::int64_t>(x + p) * pixel + c;
        for (int i = 0; i < kGroup; ++i) acc[p * kGroup + i] = kWeight * from[i];
      }
      finish(e, s, acc, kGroup, count, row, x, c, s.out_channels);
    }
  }
}

void map(const Epilogue& e, const ConvShape& s, const std::uint8_t* in, int element, int pixel,
         int row) {
  if (e.to_bytes && e.bytes.same) return map_same(e.bytes, s, in, pixel, row);
  if (e.to_bytes) return map_bytes(e, s, in, pixel, row);
  const bool alone = e.codes == nullptr && e.add == nullptr;
  if (element == 1) {
    (alone ? scale_row<std::uint8_t> : map_row<std::uint8_t>)(e, s, in, pixel, row);
  } else {
    (alone ? scale_row<float> : map_row<float>)(e, s, in, pixel, row);
  }
}

// Inputs this small are all 0: the factor below would overflow.
constexpr float kSmallestInput = 1e-30f;

float quantize_input(const Linear& l) {
  float largest = 0.0f;
  for (int i = 0; i < l.inputs; ++i) {
    const float size = l.input[i] < 0.0f ? -l.input[i] : l.input[i];
    largest = size > largest ? size : largest;
  }
  if (largest < kSmallestInput) {
    std::memset(l.quantized, 0, static_cast<std::size_t>(l.inputs) * sizeof(std::int16_t));
    return kSmallestInput;
  }
  const float factor = static_cast<float>(l.limit) / largest;
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, halves to even.
  const float round = 12582912.0f;
  for (int i = 0; i < l.inputs; ++i) {
    const float x = l.input[i] * factor;
    const float whole = (x + round) - round;
    l.quantized[i] = static_cast<std::int16_t>(static_cast<std::int32_t>(whole));
  }
  return largest;
}

void linear(const Linear& l, float largest, int first, int count) {
  const float factor = largest / static_cast<float>(l.limit);
  for (int o = first; o < first + count; ++o) {
    const std::int8_t* w = l.weight + static_cast<std::int64_t>(o) * l.inputs;
    std::int32_t sum = 0;
    for (int i = 0; i < l.inputs; ++i) sum += static_cast<std::int32_t>(l.quantized[i]) * w[i];
    const float scaled = static_cast<float>(sum) * (factor * l.scale[o]);
    l.output[o] = scaled + l.bias[o];
  }
}

void byte_linear(const ByteLinear& l, int first, int count) {
  for (int o = first; o < first + count; ++o) {
    const std::int8_t* w = l.weight + static_cast<std::int64_t>(o) * l.inputs;
    std::int32_t sum = 0;
    for (int i = 0; i < l.inputs; ++i) sum += static_cast<std::int32_t>(l.codes[i]) * w[i];
    l.output[o] = l.factor[o] * static_cast<float>(sum + l.bias[o]);
  }
}

}  // namespace

extern const Pointwise pointwise;
const Pointwise pointwise = {map, quantize_input, linear, byte_linear};

}  // namespace RSQUANT_ISA
}  // namespace rsquant
