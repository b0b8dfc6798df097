// Poolings and resizing. They touch little data: plain loops that the compiler vectorises,
// but for the largest value; sums keep the order that sampling.h promises.

#include "sampling.h"

#include <cstring>

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Bytes of levels or floats: whatever the instruction set makes of them.
template <class T, int kBytes>
struct Wide {
  typedef T Vector __attribute__((vector_size(kBytes)));
};

// Steps in bytes, and how many.
struct Taps {
  std::int64_t step;
  int count;
};

template <class V>
inline void largest_at(const std::uint8_t* from, Taps rows, Taps columns, V& best) {
  std::memcpy(&best, from, sizeof(best));
  for (int i = 0; i < rows.count; ++i) {
    for (int j = 0; j < columns.count; ++j) {
      V other;
      std::memcpy(&other, from + i * rows.step + j * columns.step, sizeof(other));
      best = best > other ? best : other;
    }
  }
}

// Of `count` elements that follow each other, the largest of each with those some steps away.
template <class T>
inline void largest_of(const std::uint8_t* from, Taps rows, Taps columns, std::int64_t count,
                       std::uint8_t* out) {
  const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(T));
  std::int64_t at = 0;
  const auto some = [&]<class V>(V best) {
    for (; at + static_cast<std::int64_t>(sizeof(V)) <= bytes; at += sizeof(V)) {
      largest_at(from + at, rows, columns, best);
      std::memcpy(out + at, &best, sizeof(best));
    }
  };
#if defined(__AVX512BW__)
  some(typename Wide<T, 64>::Vector());
#endif
  some(typename Wide<T, 32>::Vector());
  some(T());
}

// Windows that share columns take the largest of each column first, once for all of them.
template <class T>
void max_pool_row(const MaxPool& p, int y, std::uint8_t* scratch) {
  const auto taps = [](const int* span, int dilation) {
    return (span[1] - span[0] + dilation - 1) / dilation;
  };
  const std::uint8_t* input = p.input + p.rows[2 * y] * p.in_row;
  Taps rows = {p.dilation_h * p.in_row, taps(p.rows + 2 * y, p.dilation_h)};
  std::int64_t all = 0;  // taps of a row of the windows
  for (int x = 0; x < p.out_w; ++x) all += taps(p.columns + 2 * x, p.dilation_w);
  if (all * (rows.count - 1) > static_cast<std::int64_t>(p.in_w) * (rows.count + 1)) {
    largest_of<T>(input, rows, {0, 1}, p.in_w * p.in_pixel / static_cast<std::int64_t>(sizeof(T)),
                  scratch);
    input = scratch;
    rows.count = 1;
  }
  for (int x = 0; x < p.out_w; ++x) {
    const int* span = p.columns + 2 * x;
    largest_of<T>(input + span[0] * p.in_pixel, rows,
                  {p.dilation_w * p.in_pixel, taps(span, p.dilation_w)}, p.channels,
                  p.output + y * p.out_row + x * p.out_pixel);
  }
}

void max_pool(const MaxPool& p, int row, std::uint8_t* scratch) {
  if (p.element == 1) {
    max_pool_row<std::uint8_t>(p, row, scratch);
  } else {
    max_pool_row<float>(p, row, scratch);
  }
}

void average_windows(const AverageWindows& p, int y) {
  for (int x = 0; x < p.out_w; ++x) {
    const std::int64_t at = static_cast<std::int64_t>(y) * p.out_w + x;
    float* __restrict out = p.output + at * p.channels;
    for (int c = 0; c < p.channels; ++c) out[c] = 0.0f;
    for (int i = p.rows[2 * y]; i < p.rows[2 * y + 1]; ++i) {
      for (int j = p.columns[2 * x]; j < p.columns[2 * x + 1]; ++j) {
        const float* __restrict in =
            p.input + (static_cast<std::int64_t>(i) * p.in_w + j) * p.channels;
        for (int c = 0; c < p.channels; ++c) out[c] += in[c];
      }
    }
    const float share = p.share[at];
    for (int c = 0; c < p.channels; ++c) out[c] *= share;
  }
}

// What lies between four pixels, of `channels` elements that follow each other.
inline void blend_pixel(const std::uint8_t* const (&from)[4], const float (&column)[2],
                        const float (&row)[2], int channels, float* __restrict out) {
  const float* of[4];
  for (int i = 0; i < 4; ++i) of[i] = reinterpret_cast<const float*>(from[i]);
  for (int c = 0; c < channels; ++c) {
    const float one = of[0][c] * column[0] + of[1][c] * column[1];
    const float two = of[2][c] * column[0] + of[3][c] * column[1];
    out[c] = one * row[0] + two * row[1];
  }
}

// In integers: weights are those of 128, and 128 * 128 is a power of two.
inline void blend_pixel(const std::uint8_t* const (&from)[4], const float (&column)[2],
                        const float (&row)[2], int channels, std::uint8_t* __restrict out) {
  constexpr int kParts = 128, kBits = 14;
  const auto parts = [](float weight) { return static_cast<std::int16_t>(weight * kParts); };
  const std::int16_t left = parts(column[0]), right = parts(column[1]);
  const std::int16_t top = parts(row[0]), bottom = parts(row[1]);
  const std::uint8_t *a = from[0], *b = from[1], *d = from[2], *e = from[3];
  for (int c = 0; c < channels; ++c) {
    // 255 * 128 fits 16 bits.
    const auto one = static_cast<std::int16_t>(a[c] * left + b[c] * right);
    const auto two = static_cast<std::int16_t>(d[c] * left + e[c] * right);
    const std::int32_t n = one * top + two * bottom;
    // Half less one, and one more where what is above it is odd.
    const std::int32_t rounded = n + (1 << (kBits - 1)) - 1 + (n >> kBits & 1);
    out[c] = static_cast<std::uint8_t>(rounded >> kBits);
  }
}

template <class T>
void blend_row(const Resize& r, int y) {
  const std::uint8_t* upper = r.input + r.rows[2 * y] * r.in_row;
  const std::uint8_t* lower = r.input + r.rows[2 * y + 1] * r.in_row;
  const float row[2] = {r.row_weights[2 * y], r.row_weights[2 * y + 1]};
  std::uint8_t* out = r.output + y * r.out_row;
  for (int x = 0; x < r.out_w; ++x, out += r.out_pixel) {
    const std::int64_t left = r.columns[2 * x] * r.in_pixel;
    const std::int64_t right = r.columns[2 * x + 1] * r.in_pixel;
    const float column[2] = {r.column_weights[2 * x], r.column_weights[2 * x + 1]};
    blend_pixel({upper + left, upper + right, lower + left, lower + right}, column, row, r.channels,
                reinterpret_cast<T*>(out));
  }
}

void blend(const Resize& r, int y) {
  if (r.element == 1) {
    blend_row<std::uint8_t>(r, y);
  } else {
    blend_row<float>(r, y);
  }
}

void average_pool(const AveragePool& p, int first, int count) {
  float* out = p.output + first;
  for (int c = 0; c < count; ++c) out[c] = 0.0f;
  for (int pixel = 0; pixel < p.pixels; ++pixel) {
    const float* in = p.input + static_cast<std::int64_t>(pixel) * p.channels + first;
    for (int c = 0; c < count; ++c) {
      float v = in[c] * p.scale[first + c];
      v = v + p.shift[first + c];
      v = v > p.low ? v : p.low;
      v = v < p.high ? v : p.high;
      out[c] += v;
    }
  }
  const float share = static_cast<float>(1.0 / p.pixels);
  for (int c = 0; c < count; ++c) out[c] = out[c] * share;
}

// Adding 1.5 * 2^23 to a number below 2^22 rounds it to an integer, half to even, and leaves that
// in the low bits.
inline std::int32_t round_half_even(float v) {
  const float magic = 12582912.0f;
  return __builtin_bit_cast(std::int32_t, v + magic) - __builtin_bit_cast(std::int32_t, magic);
}

void byte_average(const ByteAverage& p, int y, int first, int count) {
  const float low = static_cast<float>(-p.zero), high = static_cast<float>(255 - p.zero);
  for (int x = 0; x < p.out_w; ++x) {
    std::int32_t sum[kAveraged] = {};
    std::int32_t pixels = 0;
    for (int i = p.rows[2 * y]; i < p.rows[2 * y + 1]; ++i) {
      for (int j = p.columns[2 * x]; j < p.columns[2 * x + 1]; ++j, ++pixels) {
        const std::uint8_t* __restrict in = p.input + i * p.in_row + j * p.in_pixel + first;
        for (int c = 0; c < count; ++c) sum[c] += in[c];
      }
    }
    const float factor = p.factor[static_cast<std::int64_t>(y) * p.out_w + x];
    std::uint8_t* out = p.output + y * p.out_row + x * p.out_pixel + first;
    for (int c = 0; c < count; ++c) {
      float v = factor * static_cast<float>(sum[c] - pixels * p.input_zero);
      v = v > low ? v : low;
      v = v < high ? v : high;
      out[c] = static_cast<std::uint8_t>(round_half_even(v) + p.zero);
    }
  }
}

}  // namespace

extern const Sampling sampling;
const Sampling sampling = {max_pool, average_windows, blend, average_pool, byte_average};

}  // namespace RSQUANT_ISA
}  // namespace rsquant
