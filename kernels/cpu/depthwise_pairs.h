// Depthwise convolution by pairs of taps (AVX2): VPMADDUBSW multiplies bytes of 16 channels under
// two taps and adds both products, where widening them to 16 bits first takes as long as
// multiplying.
//
// Bytes of two taps are interleaved, 32 channels at a time, within each half of a register. So the
// 16-bit sums of a block of 32 channels lie in this order (and so do weights and tables):
//
//   vector 0: channels 0 .. 7, 16 .. 23        vector 1: 8 .. 15, 24 .. 31
//
// which packing to bytes undoes. Of an odd number of taps the last is paired with itself and a
// weight of 0. Weights: [block][pair][vector][channel][tap], int8.
#pragma once

#include <cstring>

#include "epilogue.h"
#include "levels.h"
#include "thresholds.h"

#if defined(RSQUANT_AVX2)
#define RSQUANT_TAP_PAIRS

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kPairBlock = 32;  // channels
constexpr int kPairTile = 4;    // pixels that share a load of weights
constexpr int kMostTaps = 64;

// Channel of the j-th of a block's 16-bit sums.
constexpr int pair_channel(int j) { return j % 16 / 8 * 16 + j / 16 * 8 + j % 8; }

// A pair of products and all of a window fit 16 bits.
inline bool takes_pairs(const ConvShape& s) {
  const int taps = s.kernel_h * s.kernel_w, product = s.input_limit * s.weight_limit;
  return taps <= kMostTaps && 2 * product <= 32767 && taps * product <= 32767;
}

inline int tap_pairs(const ConvShape& s) { return (s.kernel_h * s.kernel_w + 1) / 2; }

void prepare_pairs(const ConvShape& s, const ConvWeights& w, int block, std::int8_t* out) {
  const int taps = s.kernel_h * s.kernel_w;
  std::memset(out, 0, static_cast<std::size_t>(tap_pairs(s)) * 2 * kPairBlock);
  for (int j = 0; j < kPairBlock; ++j) {
    const int channel = block * kPairBlock + pair_channel(j);
    if (channel >= s.out_channels) continue;
    for (int i = 0; i < taps; i += 32) {
      std::int8_t levels[32];
      levels_at(s, w, channel, i, taps, levels);
      for (int k = 0; k < 32 && i + k < taps; ++k) {
        out[(i + k) / 2 * 2 * kPairBlock + 2 * j + (i + k) % 2] = levels[k];
      }
    }
  }
}

// Where taps are, from a window's first byte; an odd one twice.
inline void find_taps(const ConvShape& s, std::int64_t* offset) {
  for (int ky = 0; ky < s.kernel_h; ++ky) {
    for (int kx = 0; kx < s.kernel_w; ++kx) {
      *offset++ =
          ky * s.dilation_h * row_bytes(s) + std::int64_t{kx} * s.dilation_w * s.pixel_bytes;
    }
  }
  *offset = offset[-1];
}

inline void add_pairs(const std::uint8_t* const* window, const std::int64_t* offset, int pairs,
                      const std::int8_t* weights, Ints (&sum)[kPairTile][2]) {
  for (int i = 0; i < pairs; ++i, offset += 2, weights += 2 * kPairBlock) {
    const Ints low = load(weights), high = load(weights + kPairBlock);
#pragma GCC unroll 4
    for (int p = 0; p < kPairTile; ++p) {
      const Ints a = load(window[p] + offset[0]), b = load(window[p] + offset[1]);
      sum[p][0] =
          _mm256_add_epi16(sum[p][0], _mm256_maddubs_epi16(_mm256_unpacklo_epi8(a, b), low));
      sum[p][1] =
          _mm256_add_epi16(sum[p][1], _mm256_maddubs_epi16(_mm256_unpackhi_epi8(a, b), high));
    }
  }
}

// Accumulators of kPairTile pixels and a block of channels.
[[gnu::noinline]] void accumulate_pairs(const std::uint8_t* const* window,
                                        const std::int64_t* offset, int pairs,
                                        const std::int8_t* weights, std::int32_t* acc) {
  Ints sum[kPairTile][2] = {};
  add_pairs(window, offset, pairs, weights, sum);
  for (int p = 0; p < kPairTile; ++p, acc += kPairBlock) {
    for (int v = 0; v < 2; ++v) {
      store(acc + 8 * v, _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sum[p][v])));
      store(acc + 16 + 8 * v, _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sum[p][v], 1)));
    }
  }
}

// Levels of kPairTile pixels and a block of channels, `exist` of which are written. tables: of the
// block's first channel.
template <int T>
[[gnu::noinline]] void pair_levels(const std::int16_t* tables, std::int64_t padded,
                                   const std::uint8_t* const* window, const std::int64_t* offset,
                                   int pairs, const std::int8_t* weights, int exist,
                                   std::uint8_t* const* out) {
  Ints sum[kPairTile][2] = {};
  add_pairs(window, offset, pairs, weights, sum);
  Ints level[kPairTile][2];
#pragma GCC unroll 2
  for (int v = 0; v < 2; ++v, tables += 8) {
    // In the order of the sums.
    const auto table = [&](int number) __attribute__((always_inline)) {
      const auto half = [&](int first) __attribute__((always_inline)) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(tables + number * padded + first));
      };
      return _mm256_inserti128_si256(_mm256_castsi128_si256(half(0)), half(16), 1);
    };
    for (int p = 0; p < kPairTile; ++p) level[p][v] = table(2 * T);
#pragma GCC unroll 15
    for (int k = 0; k < T; ++k) {
      const Ints threshold = table(k), step = table(T + k);
#pragma GCC unroll 4
      for (int p = 0; p < kPairTile; ++p) {
        const Ints above = _mm256_cmpgt_epi16(sum[p][v], threshold);
        level[p][v] = _mm256_add_epi16(level[p][v], _mm256_and_si256(above, step));
      }
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < kPairTile; ++p) {
    const Ints bytes = _mm256_packus_epi16(level[p][0], level[p][1]);
    if (exist >= kPairBlock) {
      store(out[p], bytes);
    } else {
      std::uint8_t some[kPairBlock];
      store(some, bytes);
      std::memcpy(out[p], some, static_cast<std::size_t>(exist));
    }
  }
}

inline void pair_levels_any(const ConvShape& s, const Epilogue& e, int channel,
                            const std::uint8_t* const* window, const std::int64_t* offset,
                            const std::int8_t* weights, std::uint8_t* const* out) {
  as_compiled(e.thresholds, [&]<int T>() {
    pair_levels<T>(e.words.tables + channel, e.words.padded, window, offset, tap_pairs(s), weights,
                   s.out_channels - channel, out);
  });
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
