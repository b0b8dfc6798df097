// The end of a convolution whose accumulators become bytes: a residual sum moves one byte a number.
// See conv.h and docs/integer.md.
//
// float32(acc + bias) * factor is rounded to 32 bits, and 16 channels go on as 16-bit numbers: the
// limits of a code, the byte added and the limits of the sum are exact there. Levels are compared
// as signed bytes, byte - 128: BatchNorm and quantizer behind a sum are integer thresholds of its
// byte.
#pragma once

#include <cstring>

#include "byte_levels.h"
#include "conv.h"
#include "simd.h"
#include "thresholds.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Where 16 channels of the first of some pixels come from and go to (null: nowhere), and how far
// the next pixel is.
struct BytePlaces {
  const std::uint8_t* add;
  std::int64_t add_pixel;
  std::uint8_t* keep;
  std::int64_t keep_pixel;
  std::uint8_t* codes;
  std::int64_t codes_pixel;
};

// How factor * (acc + bias) is rounded: by float32, limited before that since numbers may be too
// large for 32 bits, or by multipliers of 16 bits (byte_words.h).
enum class Rounding { kFloats, kLimited, kWords };

// Tables of 16 channels, for kAtOnce pixels.
template <int T>
struct LevelTables {
  static constexpr int kTables = T > 0 ? T : 1;
  SignedByteVector threshold[kTables];
  ByteVector step[kTables], base = {};

  LevelTables(const ByteEpilogue& e, int first) {
    for (int k = 0; k < T; ++k) {
      threshold[k] = (SignedByteVector)repeat(load16(e.threshold[k] + first));
      step[k] = repeat(load16(e.step[k] + first));
    }
    if constexpr (T > 0) base = repeat(load16(e.base + first));
  }
};

// 16 channels of `count` pixels, all existing. acc: `stride` accumulators from pixel to pixel.
template <int T, Rounding kRounding>
[[gnu::noinline]] void finish_byte_group(const ByteEpilogue& e, const std::int32_t* acc, int stride,
                                         int count, int first, const BytePlaces& places) {
  const LevelTables<T> tables(e, first);
  Ints bias[kVectors];
  Floats factor[kVectors];
  for (int i = 0; i < kVectors; ++i) {
    bias[i] = load(e.bias + first + i * kLanes);
    factor[i] = load(e.factor + first + i * kLanes);
  }
  const Floats bottom = broadcast(static_cast<float>(e.low));
  const Floats top = broadcast(static_cast<float>(e.high));
  const Shorts low = spread16(e.low), high = spread16(e.high), offset = spread16(e.offset);
  const Shorts least = spread16(e.least), most = spread16(e.most);
  // Bytes are limited to 0 and 255 as they are made, which is all there is to do of many.
  const bool limited = e.least > 0 || e.most < 255;
  // Stores of bytes may change anything, so what the loop needs is copied.
  const std::uint8_t* added = places.add;
  std::uint8_t* kept = places.keep;
  std::uint8_t* coded = places.codes;
  const std::int64_t add_pixel = places.add_pixel, keep_pixel = places.keep_pixel;
  const std::int64_t codes_pixel = places.codes_pixel;

  const auto finish_pixels = [&](int some) __attribute__((always_inline)) {
    Shorts codes[kAtOnce];
    for (int q = 0; q < some; ++q) {
      Ints whole[kVectors];
      for (int i = 0; i < kVectors; ++i) {
        const Ints sum = add(load(acc + i * kLanes), bias[i]);
        Floats y = multiply(to_float(sum), factor[i]);
        if constexpr (kRounding == Rounding::kLimited) y = smallest(largest(y, bottom), top);
        whole[i] = round(y);
      }
      acc += stride;
      Shorts code = to_shorts(whole);
      if (added != nullptr) {
        code = add(smallest(largest(code, low), high), widen16(added));
        added += add_pixel;
      }
      code = add(code, offset);
      if (limited) code = smallest(largest(code, least), most);
      codes[q] = code;
    }
    for (int q = some; q < kAtOnce; ++q) codes[q] = codes[0];
    const ByteVector bytes = narrow(codes);
    if (kept != nullptr) {
      for (int q = 0; q < some; ++q, kept += keep_pixel) store16(kept, part(bytes, q));
    }
    if constexpr (T > 0) {
      const ByteVector levels = levels_of<T>(bytes, tables.threshold, tables.step, tables.base);
      for (int q = 0; q < some; ++q, coded += codes_pixel) store16(coded, part(levels, q));
    }
  };
  for (; count >= kAtOnce; count -= kAtOnce) finish_pixels(kAtOnce);
  for (; count > 0; --count) finish_pixels(1);
}

// Calls group<T, rounding>() for an epilogue, with multipliers of 16 bits only if kWords.
template <bool kWords, class Group>
inline void as_compiled(const ByteEpilogue& e, const Group& group) {
  const auto with = [&]<int T>() __attribute__((always_inline)) {
    if (e.large) return group.template operator()<T, Rounding::kLimited>();
    if constexpr (kWords) {
      if (e.words != nullptr) return group.template operator()<T, Rounding::kWords>();
    }
    group.template operator()<T, Rounding::kFloats>();
  };
  if (e.thresholds == 0) return with.template operator()<0>();
  as_compiled(e.thresholds, with);
}

inline void finish_whole_bytes(const ByteEpilogue& e, const std::int32_t* acc, int stride,
                               int count, int first, const BytePlaces& places) {
  as_compiled<false>(e, [&]<int T, Rounding kRounding>() {
    finish_byte_group<T, kRounding>(e, acc, stride, count, first, places);
  });
}

// The same where only `exist` < 16 channels do: pixels go through buffers of whole groups, some at
// a time.
[[gnu::noinline]] void finish_part_bytes(const ByteEpilogue& e, const std::int32_t* acc, int stride,
                                         int count, int first, int exist,
                                         const BytePlaces& places) {
  constexpr int kMost = 16;
  const std::size_t bytes = static_cast<std::size_t>(exist);
  std::uint8_t added[kMost * kGroup] = {}, kept[kMost * kGroup], levels[kMost * kGroup];
  for (int at = 0; at < count; at += kMost) {
    const int some = count - at < kMost ? count - at : kMost;
    if (places.add != nullptr) {
      for (int p = 0; p < some; ++p) {
        std::memcpy(added + p * kGroup, places.add + (at + p) * places.add_pixel, bytes);
      }
    }
    const BytePlaces buffers = {places.add == nullptr ? nullptr : added,    kGroup,
                                places.keep == nullptr ? nullptr : kept,    kGroup,
                                places.codes == nullptr ? nullptr : levels, kGroup};
    finish_whole_bytes(e, acc + at * stride, stride, some, first, buffers);
    for (int p = 0; p < some; ++p) {
      const int from = p * kGroup;
      if (places.keep != nullptr) {
        std::memcpy(places.keep + (at + p) * places.keep_pixel, kept + from, bytes);
      }
      if (places.codes != nullptr) {
        std::memcpy(places.codes + (at + p) * places.codes_pixel, levels + from, bytes);
      }
    }
  }
}

// Channel `first` of the pixel at (y, x).
inline BytePlaces places_of(const ByteEpilogue& e, int y, int x, int first) {
  const auto at = [&](auto* to, std::int64_t row, std::int64_t pixel) {
    return to == nullptr ? nullptr : to + y * row + x * pixel + first;
  };
  return {at(e.add, e.add_row, e.add_pixel),       e.add_pixel,
          at(e.keep, e.keep_row, e.keep_pixel),    e.keep_pixel,
          at(e.codes, e.codes_row, e.codes_pixel), e.codes_pixel};
}

// Channels first .. first + 15, those below `end`, of `count` pixels of row y from column x on.
inline void finish_bytes(const ByteEpilogue& e, const std::int32_t* acc, int stride, int count,
                         int y, int x, int first, int end) {
  const BytePlaces places = places_of(e, y, x, first);
  if (end - first >= kGroup) {
    finish_whole_bytes(e, acc, stride, count, first, places);
  } else {
    finish_part_bytes(e, acc, stride, count, first, end - first, places);
  }
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
