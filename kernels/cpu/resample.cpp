// See resample.h. Columns are a plain loop that the compiler vectorises; of a row it would move
// single bytes.

#include "resample.h"

#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

inline std::uint8_t level_of(std::int32_t sum, int bits) {
  const std::int32_t level = (sum + (1 << (bits - 1))) >> bits;
  return static_cast<std::uint8_t>(level < 0 ? 0 : level > 255 ? 255 : level);
}

// The sums R, G and B of a window, four taps at a time.
#if defined(__AVX2__)
struct Sums {
  __m256i sums = _mm256_setzero_si256();

  // Words R R G G B B 0 0 of two pixels, and of the next two.
  void add(const std::uint8_t* pixels, const std::int16_t* weights) {
    const __m256i pairs =
        _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, 6, -1, 9, -1, 7,
                         -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels));
    const __m256i words = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), pairs);
    const __m256i by = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(words, by));
  }
  void levels(int bits, std::uint8_t* out) const {
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    sum =
        _mm_sra_epi32(_mm_add_epi32(sum, _mm_set1_epi32(1 << (bits - 1))), _mm_cvtsi32_si128(bits));
    sum = _mm_packs_epi32(sum, sum);
    const int all = _mm_cvtsi128_si32(_mm_packus_epi16(sum, sum));
    std::memcpy(out, &all, 3);
  }
};
#else
struct Sums {
  std::int32_t sums[3] = {};

  void add(const std::uint8_t* pixels, const std::int16_t* weights) {
    for (int t = 0; t < 4; ++t) {
      const std::int32_t weight = weights[t / 2 * (kQuadWords / 2) + t % 2];
      for (int c = 0; c < 3; ++c) sums[c] += weight * pixels[3 * t + c];
    }
  }
  void levels(int bits, std::uint8_t* out) const {
    for (int c = 0; c < 3; ++c) out[c] = level_of(sums[c], bits);
  }
};
#endif

void row(const std::uint8_t* in, const Windows& windows, std::uint8_t* out) {
  const int quads = (windows.taps + 3) / 4;
  const std::int16_t* weights = windows.weights;
  for (int i = 0; i < windows.count; ++i, out += 3) {
    const std::uint8_t* at = in + static_cast<std::int64_t>(windows.first[i]) * 3;
    Sums sums;
    for (int t = 0; t < quads; ++t, at += 12, weights += kQuadWords) sums.add(at, weights);
    sums.levels(windows.bits, out);
  }
}

constexpr int kStrip = 32;  // pixels whose sums are made together

inline void strip(const std::uint8_t* in, std::int64_t stride, int count, const Windows& windows,
                  int i, std::uint8_t* levels) {
  const int bytes = 3 * count;
  std::int32_t sums[3 * kStrip];
  for (int x = 0; x < bytes; ++x) sums[x] = 0;
  const std::int16_t* weights = windows.weights + static_cast<std::int64_t>(i) * windows.taps;
  in += windows.first[i] * stride;
  for (int t = 0; t < windows.taps; ++t, in += stride) {
    const std::int32_t weight = weights[t];
    for (int x = 0; x < bytes; ++x) sums[x] += weight * in[x];
  }
  for (int x = 0; x < bytes; ++x) {
    levels[x] = level_of(sums[x], windows.bits);
  }
}

void columns(const std::uint8_t* in, std::int64_t stride, int width, const Windows& windows,
             std::uint8_t* out) {
  const std::int64_t plane = static_cast<std::int64_t>(windows.count) * width;
  for (int i = 0; i < windows.count; ++i, out += width) {
    for (int from = 0; from < width; from += kStrip) {
      std::uint8_t levels[3 * kStrip];
      const int count = width - from < kStrip ? width - from : kStrip;
      if (count == kStrip) {
        strip(in + 3 * from, stride, kStrip, windows, i, levels);
      } else {
        strip(in + 3 * from, stride, count, windows, i, levels);
      }
      for (int x = 0; x < count; ++x) {
        for (int c = 0; c < 3; ++c) out[c * plane + from + x] = levels[3 * x + c];
      }
    }
  }
}

}  // namespace

extern const Resample resample;
const Resample resample = {row, columns};

}  // namespace RSQUANT_ISA
}  // namespace rsquant
