// The end of every convolution, see epilogue.h: which of its loops an epilogue takes.
//
// Thresholds are compared as "x > t" only. Where the folded BatchNorm has a negative factor the
// level falls as x grows: it is then base - sum of the steps passed, with the top level as base
// and thresholds moved to the next smaller value, so that a tie falls on the right side. Where the
// factor is zero no threshold is ever passed. So `sign` and `base` are all that differs.

#include "epilogue.h"

#include <cstring>

#include "byte_epilogue.h"
#include "byte_epilogue_packed.h"
#include "thresholds.h"
#include "word_epilogue.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Where 16 channels of the first of some pixels come from and go to (null: nowhere), and how far
// the next pixel is.
struct Places {
  const float* add;
  float* keep;
  std::int64_t floats;
  std::uint8_t* codes;
  std::int64_t bytes;
};

// 16 channels of `count` pixels, all existing. acc: `stride` accumulators from pixel to pixel.
// T thresholds compare the accumulators (kInteger) or the values.
// kPlain: values need no correction and no limits.
template <bool kInteger, int T, bool kPlain>
[[gnu::noinline]] void finish_group(const Epilogue& e, const std::int32_t* acc, int stride,
                                    int count, int first, const Places& places) {
  constexpr int kTables = T > 0 ? T : 1;
  Ints whole[kTables][kVectors], step[kTables], base[kVectors], sign[kVectors];
  Floats real[kTables][kVectors], scale[kVectors], shift[kVectors];
  for (int i = 0; i < kVectors; ++i) {
    const int channel = first + i * kLanes;
    for (int k = 0; k < T; ++k) {
      if constexpr (kInteger) {
        whole[k][i] = load(static_cast<const std::int32_t*>(e.threshold[k]) + channel);
      } else {
        real[k][i] = load(static_cast<const float*>(e.threshold[k]) + channel);
      }
    }
    if constexpr (T > 0) {
      base[i] = load(e.base + channel);
      sign[i] = load(e.sign + channel);
    }
    if constexpr (!kInteger) {
      scale[i] = load(e.scale + channel);
      shift[i] = load(e.shift + channel);
    }
  }
  for (int k = 0; k < T; ++k) step[k] = broadcast(e.step[k]);
  const Floats low = broadcast(e.low), high = broadcast(e.high);

  for (int p = 0; p < count; ++p) {
    Ints level[kVectors];
    for (int i = 0; i < kVectors; ++i) {
      const Ints sum = load(acc + p * stride + i * kLanes);
      Ints passed = broadcast(0);
      if constexpr (kInteger) {
        for (int k = 0; k < T; ++k) passed = add(passed, and_greater(sum, whole[k][i], step[k]));
      } else {
        Ints exact = sum;
        if constexpr (!kPlain) exact = subtract(sum, load(e.correction + first + i * kLanes));
        Floats v = add(multiply(to_float(exact), scale[i]), shift[i]);
        const std::int64_t at = p * places.floats + i * kLanes;
        // A pixel's next line, taken up after those of all others, is asked for here: of a large
        // map it would come from memory.
        if (places.add != nullptr) {
          v = add(v, load(places.add + at));
          __builtin_prefetch(places.add + at + kGroup);
        }
        for (int k = 0; k < T; ++k) passed = add(passed, and_greater(v, real[k][i], step[k]));
        if constexpr (!kPlain) v = smallest(largest(v, low), high);
        if (places.keep != nullptr) {
          store(places.keep + at, v);
          __builtin_prefetch(places.keep + at + kGroup, 1);
        }
      }
      if constexpr (T > 0) level[i] = add(base[i], multiply_sign(passed, sign[i]));
    }
    if constexpr (T > 0) store_bytes(places.codes + p * places.bytes, level);
  }
}

template <bool kInteger, bool kPlain>
inline void finish_as(const Epilogue& e, const std::int32_t* acc, int stride, int count, int first,
                      const Places& places) {
  if constexpr (!kInteger) {
    if (e.thresholds == 0) {
      return finish_group<false, 0, kPlain>(e, acc, stride, count, first, places);
    }
  }
  as_compiled(e.thresholds, [&]<int T>() {
    finish_group<kInteger, T, kPlain>(e, acc, stride, count, first, places);
  });
}

inline void finish_any(const Epilogue& e, const std::int32_t* acc, int stride, int count, int first,
                       const Places& places) {
#if defined(RSQUANT_WORD_LEVELS)
  if (e.words.tables != nullptr) {
    return finish_words(e, Accumulators<kGroup>{acc, stride, 0}, count, first, kGroup, places.codes,
                        places.bytes);
  }
#endif
  if (e.integer) {
    finish_as<true, true>(e, acc, stride, count, first, places);
  } else if (e.plain) {
    finish_as<false, true>(e, acc, stride, count, first, places);
  } else {
    finish_as<false, false>(e, acc, stride, count, first, places);
  }
}

// The same where only `exist` < 16 channels do. Beyond them lies the next pixel, perhaps another
// task's, so pixels go through buffers of whole groups, some at a time.
[[gnu::noinline]] void finish_part(const Epilogue& e, const std::int32_t* acc, int stride,
                                   int count, int first, int exist, const Places& places) {
  const std::size_t floats = static_cast<std::size_t>(exist) * sizeof(float);
  float added[kMostPixels * kGroup] = {}, kept[kMostPixels * kGroup];
  std::uint8_t bytes[kMostPixels * kGroup];
  for (int at = 0; at < count; at += kMostPixels) {
    const int some = count - at < kMostPixels ? count - at : kMostPixels;
    if (places.add != nullptr) {
      for (int p = 0; p < some; ++p) {
        std::memcpy(added + p * kGroup, places.add + (at + p) * places.floats, floats);
      }
    }
    const Places buffers = {places.add == nullptr ? nullptr : added,
                            places.keep == nullptr ? nullptr : kept, kGroup, bytes, kGroup};
    finish_any(e, acc + at * stride, stride, some, first, buffers);
    for (int p = 0; p < some; ++p) {
      if (places.keep != nullptr) {
        std::memcpy(places.keep + (at + p) * places.floats, kept + p * kGroup, floats);
      }
      if (places.codes != nullptr) {
        std::memcpy(places.codes + (at + p) * places.bytes, bytes + p * kGroup,
                    static_cast<std::size_t>(exist));
      }
    }
  }
}

// Channels first .. first + 15, those below `end`, of `count` pixels of row y from column x on.
inline void finish_row(const Epilogue& e, const ConvShape& shape, const std::int32_t* acc,
                       int stride, int count, int y, int x, int first, int end) {
  const std::int64_t pixel = shape.out_channels;
  const std::int64_t at = (static_cast<std::int64_t>(y) * shape.out_w + x) * pixel + first;
  const Places places = {
      e.add == nullptr ? nullptr : e.add + at, e.keep == nullptr ? nullptr : e.keep + at, pixel,
      e.codes == nullptr ? nullptr : e.codes + y * e.codes_row + x * e.codes_pixel + first,
      e.codes_pixel};
  if (end - first >= kGroup) {
    finish_any(e, acc, stride, count, first, places);
  } else {
    finish_part(e, acc, stride, count, first, end - first, places);
  }
}

// Calls finish(from, pixels, y, x) for each row of `count` output pixels that follow each other in
// row order from (y, x) on: the row's are those from the `from`th on.
template <class Finish>
inline void over_rows(const ConvShape& shape, int count, int y, int x, const Finish& finish) {
  for (int from = 0; from < count;) {
    const int left = count - from, in_row = left < shape.out_w - x ? left : shape.out_w - x;
    finish(from, in_row, y, x);
    from += in_row;
    x = 0;
    ++y;
  }
}

}  // namespace

void finish(const Epilogue& e, const ConvShape& shape, const std::int32_t* acc, int stride,
            int count, int y, int x, int first, int end) {
  over_rows(shape, count, y, x, [&](int from, int in_row, int row, int column) {
    const std::int32_t* of_row = acc + from * stride;
    if (e.to_bytes) {
      finish_bytes(e.bytes, of_row, stride, in_row, row, column, first, end);
    } else {
      finish_row(e, shape, of_row, stride, in_row, row, column, first, end);
    }
  });
}

#if defined(RSQUANT_WORD_LEVELS)
namespace {

// The channels of Sums (ending_sums.h), `exist` of which are written. Bytes, or levels by words.
template <class Sums>
inline void finish_registers(const Epilogue& e, const ConvShape& shape, const Sums& sums, int count,
                             int y, int x, int first, int exist) {
  over_rows(shape, count, y, x, [&](int from, int in_row, int row, int column) {
    Sums of_row = sums;
    of_row.skip(from);
    if (e.to_bytes) {
      finish_packed_row(e.bytes, of_row, in_row, row, column, first, exist);
    } else {
      finish_words(e, of_row, in_row, first, exist,
                   e.codes + row * e.codes_row + column * e.codes_pixel + first, e.codes_pixel);
    }
  });
}

}  // namespace

bool takes_narrow(const Epilogue& e, int channels) {
#if !defined(RSQUANT_WIDE_BYTES)
  if (channels % static_cast<int>(sizeof(Ints)) != 0) return false;
#endif
  static_cast<void>(channels);
  if (e.to_bytes) return e.bytes.words != nullptr && e.bytes.short_bias;
  return e.words.tables != nullptr && e.words.short_shift;
}

void finish_narrow(const Epilogue& e, const ConvShape& shape, const std::int16_t* sums, int stride,
                   int count, int y, int x, int first, int channels) {
  constexpr int kOfRegister = static_cast<int>(sizeof(Ints));
  int c = 0;
  const auto finish = [&]<int kChannels>() __attribute__((always_inline)) {
    finish_registers(e, shape, NarrowSums<kChannels>{sums + c, stride}, count, y, x, first + c,
                     channels - c);
    c += kChannels;
  };
#if defined(RSQUANT_WIDE_BYTES)
  while (channels - c > kOfRegister / 2) finish.template operator()<kOfRegister>();
  if (channels > c) finish.template operator()<kOfRegister / 2>();
#else
  while (channels > c) finish.template operator()<kOfRegister>();
#endif
}
#endif

#if defined(RSQUANT_WIDE_BYTES)
void finish_wide(const Epilogue& e, const ConvShape& shape, const std::int32_t* acc, int stride,
                 std::int64_t second, int count, int y, int x, int first) {
  finish_registers(e, shape, Accumulators<kWideGroup>{acc, stride, second}, count, y, x, first,
                   kWideGroup);
}
#endif

void finish_channels(const Epilogue& e, const ConvShape& shape, const std::int32_t* acc, int stride,
                     int count, int y, int x, int first, int channels, int end) {
  const int exist = end - first < channels ? end - first : channels;
  int c = 0;
#if defined(RSQUANT_WIDE_BYTES)
  if (takes_wide(e)) {
    const auto wide = [&]<int kChannels>() __attribute__((always_inline)) {
      finish_registers(e, shape, Accumulators<kChannels>{acc + c, stride, 32}, count, y, x,
                       first + c, exist - c);
      c += kChannels;
    };
    while (exist - c > 32 && channels - c >= 64) wide.template operator()<64>();
    while (exist - c > 16 && channels - c >= 32) wide.template operator()<32>();
    while (exist > c) wide.template operator()<16>();
    return;
  }
#endif
#if defined(RSQUANT_WORD_LEVELS) && !defined(RSQUANT_WIDE_BYTES)
  if (e.to_bytes) {
    constexpr int kTogether = sizeof(Ints);
    for (; exist - c >= kTogether; c += kTogether) {
      finish_registers(e, shape, Accumulators<kTogether>{acc + c, stride, 2 * kLanes}, count, y, x,
                       first + c, kTogether);
    }
  }
#endif
  for (; c < exist; c += kGroup) finish(e, shape, acc + c, stride, count, y, x, first + c, end);
}

}  // namespace RSQUANT_ISA
}  // namespace rsquant
