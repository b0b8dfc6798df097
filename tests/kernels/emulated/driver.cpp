// Runs every convolution kernel of one instruction set on many shapes, against 64-bit sums and a
// scalar epilogue. Compiled with the kernels' own sources; see tests/kernels/test_conv_kernels.py.
//
// The image is a case of its own, with four channels, the last of them 255 (conv.h), and so are
// float inputs.
//
//   driver CASES [SEED]     prints "kernel: runs" for each kernel; exit 1 at the first difference
//
// Every buffer has exactly the size that conv.h promises, on the heap, so that a sanitizer sees
// what reads or writes beyond it. What conv.h leaves unspecified is random.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "byte_ranks.h"
#include "byte_words.h"
#include "table.h"
#include "word_levels.h"

namespace rsquant {
namespace RSQUANT_ISA {

// The rest of the table is not under test here.
extern const Kernels kernels;
extern const Pointwise pointwise;
extern const Sampling sampling;
extern const Elementwise elementwise;
extern const Resample resample;
extern const Peak peak;
const Kernels kernels = {};
const Pointwise pointwise = {};
const Sampling sampling = {};
const Elementwise elementwise = {};
const Resample resample = {};
const Peak peak = {};

}  // namespace RSQUANT_ISA
}  // namespace rsquant

namespace {

using rsquant::ConvKernel;
using rsquant::ConvRun;
using rsquant::ConvShape;
using rsquant::Epilogue;

const rsquant::IsaTable& table = rsquant::RSQUANT_ISA::table;

// The same numbers on every machine.
struct Random {
  std::uint64_t state;
  std::uint32_t next() {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<std::uint32_t>(state >> 33);
  }
  int below(int n) { return static_cast<int>(next() % static_cast<std::uint32_t>(n)); }
  int between(int low, int high) { return low + below(high - low + 1); }
  bool chance(int percent) { return below(100) < percent; }
  template <class T>
  T of(std::initializer_list<T> some) {
    return some.begin()[below(static_cast<int>(some.size()))];
  }
  float real(float low, float high) {
    return low + (high - low) * static_cast<float>(below(1 << 20)) / (1 << 20);
  }
};

// Memory aligned to 64 bytes and not a byte longer than asked for, full of noise.
template <class T>
class Memory {
 public:
  Memory(std::size_t count, Random& random) : count_(count) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, std::max<std::size_t>(count * sizeof(T), 1)) != 0) std::abort();
    data_ = static_cast<T*>(memory);
    std::uint8_t* bytes = static_cast<std::uint8_t*>(memory);
    for (std::size_t i = 0; i < count * sizeof(T); ++i) bytes[i] = random.next() & 255;
  }
  Memory(const Memory&) = delete;
  ~Memory() { std::free(data_); }
  void clear() { std::memset(static_cast<void*>(data_), 0, count_ * sizeof(T)); }
  T* data() { return data_; }
  T& operator[](std::size_t i) { return data_[i]; }
  std::size_t size() const { return count_; }

 private:
  T* data_;
  std::size_t count_;
};

int round_up(int n, int to) { return (n + to - 1) / to * to; }

// How extreme the data are: 0: not; 1: all at the upper limit; 2: at the lower one (inputs: a
// chessboard); 3: limits by chance (weights: a chessboard too); 4: weights at one limit for some
// taps and channels, then at the other, so that sums that follow each other differ most.
struct Extreme {
  int input, weights;
};

// One convolution with its data.
struct Case {
  Case(const ConvShape& s, int zero, Extreme extreme, Random& random)
      : shape(s),
        taps(s.kernel_h * s.kernel_w * (s.in_channels / s.groups)),
        input(s.real ? 0 : padded_bytes(s) + 64, random),
        floats(s.real ? static_cast<std::size_t>(s.in_h) * s.in_w * s.in_channels : 0, random),
        numbers(padded_bytes(s)),
        plane_bytes(round_up(taps, 64) / 8),
        planes(static_cast<std::size_t>(s.weight_bits) * s.out_channels * plane_bytes, random),
        basis(static_cast<std::size_t>(s.out_channels) * s.weight_bits, random),
        offset(static_cast<std::size_t>(s.out_channels), random),
        levels(static_cast<std::size_t>(s.out_channels) * taps, random),
        words(static_cast<std::size_t>(s.out_channels) * taps, random) {
    if (s.real) {
      make_floats(extreme.input, random);
    } else {
      make_input(zero, extreme.input, random);
      std::copy_n(input.data(), numbers.size(), numbers.begin());
    }
    make_weights(zero, extreme.weights, random);
    make_sums();
  }

  static std::size_t padded_bytes(const ConvShape& s) {
    return static_cast<std::size_t>((s.in_h + 2 * s.border) * rsquant::row_bytes(s));
  }

  // Numbers, some of them halfway between two, some beyond the limit.
  void make_floats(int extreme, Random& random) {
    const ConvShape& s = shape;
    std::size_t at = 0;
    for (int y = 0; y < s.in_h; ++y) {
      for (int x = 0; x < s.in_w; ++x) {
        for (int c = 0; c < s.in_channels; ++c) {
          const float limit = static_cast<float>(s.input_limit);
          float n = random.real(-1.1f, 1.1f) * limit;
          if (random.chance(30)) n = static_cast<float>(random.between(-9, 9)) + 0.5f;
          if (random.chance(5)) n = random.of({-1e25f, 1e25f, 0.0f, -limit - 0.5f, limit - 0.5f});
          if (extreme == 1) n = 1e25f;
          if (extreme == 2) n = (x + y) % 2 == 0 ? 1e25f : -1e25f;
          if (extreme == 3) n = random.chance(50) ? 1e25f : -1e25f;
          const float value = n / s.inverse_step;
          floats[at++] = value;
          const float scaled = value * s.inverse_step;
          const float whole = std::min(std::max(std::nearbyint(scaled), -limit), limit);
          numbers[static_cast<std::size_t>((y + s.border) * rsquant::row_bytes(s) +
                                           (x + s.border) * s.pixel_bytes + c)] =
              static_cast<std::int16_t>(whole);
        }
      }
    }
  }

  // What a kernel is given.
  const std::uint8_t* start() {
    return shape.real ? reinterpret_cast<const std::uint8_t*>(floats.data()) : input.data();
  }

  // Bytes that the input can hold.
  std::vector<int> input_levels(int zero) const {
    std::vector<int> found;
    for (int code = 0; code < 1 << shape.input_bits; ++code) {
      int level = zero;
      for (int j = 0; j < shape.input_bits; ++j) level += code >> j & 1 ? shape.input_basis[j] : 0;
      found.push_back(level);
    }
    return found;
  }

  void make_input(int zero, int extreme, Random& random) {
    const ConvShape& s = shape;
    std::vector<int> some = input_levels(zero);
    if (s.input_bits == 0) {
      some.clear();
      for (int i = 0; i <= s.input_limit; ++i) some.push_back(i);
    }
    if (extreme > 0) some = {0, s.input_limit, s.input_limit, s.input_limit};
    const std::int64_t row = rsquant::row_bytes(s);
    for (int y = 0; y < s.in_h + 2 * s.border; ++y) {
      for (int x = 0; x < s.in_w + 2 * s.border; ++x) {
        const bool outside =
            y < s.border || x < s.border || y >= s.in_h + s.border || x >= s.in_w + s.border;
        for (int c = 0; c < s.pixel_bytes; ++c) {
          int byte = some[static_cast<std::size_t>(random.below(static_cast<int>(some.size())))];
          if (extreme == 1) byte = s.input_limit;
          if (extreme == 2) byte = (x + y) % 2 == 0 ? s.input_limit : 0;
          if (s.weight_bits == 0 && s.in_channels == 4 && c == 3) byte = 255;
          if (outside) byte = zero;
          // Unspecified levels, of at most 127.
          if (c >= s.in_channels) byte = random.below(128);
          input[static_cast<std::size_t>(y * row + x * s.pixel_bytes + c)] =
              static_cast<std::uint8_t>(byte);
        }
      }
    }
  }

  void make_weights(int zero, int extreme, Random& random) {
    const ConvShape& s = shape;
    const bool chessboard = random.chance(50);
    const int stretch = random.of({5, 6, 17, 18, 19, 40, 130, 500});
    const auto high = [&](int o, int tap) {
      const int channels = s.in_channels / s.groups;
      const int place = tap / channels / s.kernel_w + tap / channels % s.kernel_w;
      if (extreme == 1 || extreme == 2) return extreme == 1;
      if (extreme == 4) return (tap / stretch + o) % 2 == 0;
      return extreme == 3 && chessboard ? (place + o) % 2 == 0 : random.chance(50);
    };
    if (s.weight_bits == 0) {
      for (int o = 0; o < s.out_channels; ++o) {
        for (int tap = 0; tap < taps; ++tap) {
          int size = extreme > 0 ? s.weight_limit : random.below(s.weight_limit + 1);
          // Outside the fourth channel must be 0, or have no weight, as in integer networks.
          if ((zero != 0 || s.weight_limit <= 64) && tap % s.in_channels == 3) size = 0;
          set(o, tap, high(o, tap) ? size : -size);
        }
      }
      return;
    }
    std::memset(planes.data(), 0, planes.size());
    const bool symmetric = random.chance(50);
    for (int o = 0; o < s.out_channels; ++o) {
      // The lowest and the highest level: symmetric, or anything of which one is the limit.
      int lowest = -s.weight_limit, highest = s.weight_limit;
      if (!symmetric) {
        int& other = random.chance(50) ? lowest : highest;
        other = random.between(-s.weight_limit, s.weight_limit);
      }
      // Sizes that together make the span, one of them what is left; signs in places.
      int left = highest - lowest, zero = lowest;
      for (int k = 0; k < s.weight_bits; ++k) {
        int size = k + 1 < s.weight_bits ? random.below(left + 1) : left;
        if (symmetric && k + 1 < s.weight_bits) size -= size % 2;
        left -= size;
        const bool negative = random.chance(20);
        if (negative) zero += size;
        basis[static_cast<std::size_t>(o) * s.weight_bits + k] =
            static_cast<std::int16_t>(negative ? -size : size);
      }
      offset[static_cast<std::size_t>(o)] = static_cast<std::int8_t>(zero);
      for (int tap = 0; tap < taps; ++tap) {
        const bool up = high(o, tap);
        int level = zero;
        for (int k = 0; k < s.weight_bits; ++k) {
          const int p = basis[static_cast<std::size_t>(o) * s.weight_bits + k];
          const bool bit = extreme > 0 ? (p > 0) == up : random.chance(50);
          level += bit ? p : 0;
          if (bit) {
            planes[(static_cast<std::size_t>(k) * s.out_channels + o) * plane_bytes + tap / 8] |=
                static_cast<std::uint8_t>(1 << tap % 8);
          }
        }
        set(o, tap, level);
      }
    }
  }

  void set(int o, int tap, int level) {
    const std::size_t at = static_cast<std::size_t>(o) * taps + static_cast<std::size_t>(tap);
    levels[at] = static_cast<std::int8_t>(level);
    words[at] = static_cast<std::int16_t>(level);
  }

  void make_sums() {
    const ConvShape& s = shape;
    const int channels = s.in_channels / s.groups, per_group = s.out_channels / s.groups;
    const std::int64_t row = rsquant::row_bytes(s);
    sums.resize(static_cast<std::size_t>(s.out_h) * s.out_w * s.out_channels);
    std::size_t at = 0;
    for (int y = 0; y < s.out_h; ++y) {
      for (int x = 0; x < s.out_w; ++x) {
        const std::int16_t* corner = numbers.data() + rsquant::window_offset(s, y, x);
        for (int o = 0; o < s.out_channels; ++o) {
          const std::int16_t* w = words.data() + static_cast<std::size_t>(o) * taps;
          std::int64_t sum = 0;
          for (int ky = 0; ky < s.kernel_h; ++ky) {
            for (int kx = 0; kx < s.kernel_w; ++kx) {
              const std::int16_t* in = corner + ky * s.dilation_h * row +
                                       kx * s.dilation_w * s.pixel_bytes + o / per_group * channels;
              for (int c = 0; c < channels; ++c) sum += std::int64_t{in[c]} * *w++;
            }
          }
          if (sum != static_cast<std::int32_t>(sum)) std::abort();  // no case may ask for this
          sums[at++] = static_cast<std::int32_t>(sum);
        }
      }
    }
  }

  rsquant::ConvWeights source() {
    rsquant::ConvWeights weights = {};
    if (shape.weight_bits == 0) {
      weights.words = words.data();
      if (shape.weight_limit <= 127 && taps % 8 != 0) weights.levels = levels.data();
    } else {
      weights.planes = planes.data();
      weights.basis = basis.data();
      weights.offset = offset.data();
      weights.bits = shape.weight_bits;
      weights.plane_bytes = plane_bytes;
    }
    return weights;
  }

  ConvShape shape;
  int taps;
  Memory<std::uint8_t> input;
  Memory<float> floats;
  std::vector<std::int16_t> numbers;  // the input as integers, with its border
  int plane_bytes;
  Memory<std::uint8_t> planes;
  Memory<std::int16_t> basis;
  Memory<std::int8_t> offset, levels;
  Memory<std::int16_t> words;
  std::vector<std::int32_t> sums;
};

template <class Work>
void shuffled(int count, Random& random, const Work& work) {
  std::vector<int> order;
  for (int i = 0; i < count; ++i) order.push_back(i);
  for (int i = count - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  for (const int task : order) work(task);
}

// Tasks in any order, each with scratch of its own, or that of another task.
void run_kernel(Case& of, const ConvKernel& kernel, bool prepared, const Epilogue& epilogue,
                Random& random) {
  const ConvShape& shape = of.shape;
  ConvRun run = {};
  run.shape = shape;
  run.input = of.start();
  run.source = of.source();
  run.epilogue = epilogue;
  Memory<std::uint8_t> weights(prepared ? kernel.weight_bytes(shape) : 0, random);
  if (prepared) {
    kernel.prepare(shape, run.source, weights.data());
    run.weights = weights.data();
    run.source = {};
  }
  const bool transforms = kernel.transform_input != nullptr;
  Memory<std::uint8_t> transformed(transforms ? kernel.input_bytes(shape) : 0, random);
  run.transformed = transformed.data();
  shuffled(transforms ? kernel.input_tasks(shape) : 0, random,
           [&](int task) { kernel.transform_input(shape, run.input, transformed.data(), task); });
  std::optional<Memory<std::uint8_t>> scratch;
  shuffled(kernel.tasks(shape, prepared), random, [&](int task) {
    if (!scratch || random.chance(60)) {
      scratch.emplace(kernel.scratch_bytes(shape, prepared), random);
      if (kernel.begin != nullptr) kernel.begin(run, scratch->data());
    }
    kernel.run(run, task, scratch->data());
  });
}

// One epilogue with its tables and results.
struct Ending {
  static std::size_t padded(const ConvShape& s) {
    return static_cast<std::size_t>(rsquant::padded_channels(s.out_channels));
  }
  static std::size_t word_bytes(const ConvShape& s, int thresholds) {
    Epilogue e = {};
    e.thresholds = thresholds;
    return rsquant::word_levels_bytes(e, s.out_channels);
  }

  Ending(const Case& of, int thresholds, bool integer, bool add, bool keep, Random& random)
      : shape(of.shape),
        pixels(of.shape.out_h * of.shape.out_w),
        correction(padded(shape), random),
        base(padded(shape), random),
        sign(padded(shape), random),
        scale(padded(shape), random),
        shift(padded(shape), random),
        whole(padded(shape) * static_cast<std::size_t>(thresholds), random),
        real(padded(shape) * static_cast<std::size_t>(thresholds), random),
        added(static_cast<std::size_t>(pixels) * shape.out_channels, random),
        words(word_bytes(shape, thresholds), random),
        pixel(round_up(shape.out_channels, 4)),
        border(random.below(3)),
        row(static_cast<std::int64_t>(shape.out_w + 2 * border) * pixel) {
    e = {};
    e.correction = correction.data(), e.base = base.data(), e.sign = sign.data();
    e.scale = scale.data(), e.shift = shift.data();
    e.thresholds = thresholds;
    e.integer = integer;
    e.low = random.chance(50) ? 0.0f : -1e30f;
    e.high = random.chance(50) ? random.real(0, 3) : 1e30f;
    has_keep = keep;
    // Behind the last channel tables hold zeros.
    for (Memory<std::int32_t>* table : {&correction, &base, &sign, &whole}) table->clear();
    for (Memory<float>* table : {&scale, &shift, &real}) table->clear();
    if (add) e.add = added.data();
    for (std::size_t i = 0; i < added.size(); ++i) added[i] = random.real(-2, 2);
    int top = 0;
    for (int k = 0; k < thresholds; ++k) top += e.step[k] = random.between(1, 127 / thresholds);
    const int lowest = random.below(128 - top);
    const bool beyond = random.chance(20);   // 16 bits, all of a channel
    const bool ordered = random.chance(60);  // where the level falls thresholds do, too
    float size = 1;
    for (const std::int32_t sum : of.sums) size = std::max(size, std::abs(static_cast<float>(sum)));
    for (int c = 0; c < shape.out_channels; ++c) {
      const std::size_t at = static_cast<std::size_t>(c);
      correction[at] = random.between(-1000, 1000);
      scale[at] = random.real(-3, 3) / size;
      shift[at] = random.real(-1, 1);
      sign[at] = random.chance(70) ? 1 : -1;
      base[at] = sign[at] == 1 ? lowest : lowest + top;
      // Thresholds are results that occur, so that some are met exactly.
      std::vector<std::int32_t> sums;
      std::vector<float> values;
      for (int k = 0; k < thresholds; ++k) {
        const int p = random.below(pixels);
        const std::size_t where = static_cast<std::size_t>(p) * shape.out_channels + at;
        sums.push_back(of.sums[where] + (random.chance(30) ? random.between(-2, 2) : 0));
        values.push_back(value(of, where, c));
      }
      std::sort(sums.begin(), sums.end());
      std::sort(values.begin(), values.end());
      // About as far from each other as 16 bits allow.
      if (thresholds > 1 && random.chance(30)) {
        sums.front() = sums.back() - random.of({65531, 65532, 65533, 65534});
        for (std::int32_t& sum : sums) sum = std::max(sum, sums.front());
      }
      if (beyond && random.chance(10)) {
        for (std::int32_t& sum : sums) sum = random.between(33000, 60000);
      }
      std::sort(sums.begin(), sums.end());
      if (thresholds > 0 && random.chance(5)) sums.back() = INT32_MAX;
      if (thresholds > 0 && random.chance(5)) sums.front() = INT32_MIN;
      if (ordered && sign[at] < 0) std::reverse(sums.begin(), sums.end());
      for (int k = 0; k < thresholds; ++k) {
        whole[padded(shape) * k + at] = sums[static_cast<std::size_t>(k)];
        real[padded(shape) * k + at] = values[static_cast<std::size_t>(k)];
      }
    }
    for (int k = 0; k < thresholds; ++k) {
      const std::size_t at = padded(shape) * static_cast<std::size_t>(k);
      e.threshold[k] = integer ? static_cast<const void*>(whole.data() + at) : real.data() + at;
    }
    words.clear();
    if (integer && random.chance(70)) {
      std::int64_t most = random.below(100);
      for (const std::int32_t sum : of.sums) most = std::max(most, std::abs(std::int64_t{sum}));
      // Weights and inputs of their limits could make more than these do.
      const std::int64_t taps =
          shape.kernel_h * shape.kernel_w * (shape.in_channels / shape.groups);
      if (random.chance(60)) most = taps * shape.input_limit * shape.weight_limit;
      e.words = rsquant::make_word_levels(e, shape.out_channels, most, words.data());
    }
  }

  float value(const Case& of, std::size_t where, int c) {
    const std::size_t at = static_cast<std::size_t>(c);
    float v = static_cast<float>(of.sums[where] - correction[at]) * scale[at];
    v = v + shift[at];
    if (e.add != nullptr) v = v + e.add[where];
    return v;
  }

  std::size_t code_bytes() const {
    return static_cast<std::size_t>((shape.out_h + 2 * border) * row);
  }

  // Runs a kernel; false, with a message, where a result differs.
  bool holds(Case& of, const ConvKernel& kernel, bool prepared, Random& random) {
    Memory<std::uint8_t> codes(code_bytes(), random), before(code_bytes(), random);
    std::memcpy(codes.data(), before.data(), code_bytes());
    Memory<float> keep(added.size(), random);
    e.keep = has_keep ? keep.data() : nullptr;
    e.codes = e.thresholds > 0 ? codes.data() + border * (row + pixel) : nullptr;
    e.codes_row = row;
    e.codes_pixel = pixel;

    Epilogue used = e;
    if (has_keep && e.add != nullptr && random.chance(50)) {  // the sum takes its place
      std::memcpy(keep.data(), added.data(), added.size() * sizeof(float));
      used.add = keep.data();
    }
    run_kernel(of, kernel, prepared, used, random);

    std::vector<std::uint8_t> expected(before.data(), before.data() + code_bytes());
    for (int p = 0; p < pixels; ++p) {
      for (int c = 0; c < shape.out_channels; ++c) {
        const std::size_t where = static_cast<std::size_t>(p) * shape.out_channels + c;
        const float v = value(of, where, c);
        std::int32_t level = base[static_cast<std::size_t>(c)];
        for (int k = 0; k < e.thresholds; ++k) {
          const std::size_t at = padded(shape) * k + static_cast<std::size_t>(c);
          const bool passed = e.integer ? of.sums[where] > whole[at] : v > real[at];
          level += passed ? sign[static_cast<std::size_t>(c)] * e.step[k] : 0;
        }
        if (e.codes != nullptr) {
          const std::int64_t to = (p / shape.out_w + border) * row +
                                  (p % shape.out_w + border) * std::int64_t{pixel} + c;
          expected[static_cast<std::size_t>(to)] = static_cast<std::uint8_t>(level);
        }
        if (has_keep) {
          const float kept = std::min(std::max(v, e.low), e.high);
          if (std::memcmp(&kept, &keep[where], 4) != 0 && kept != keep[where]) {
            std::printf("pixel %d channel %d: kept %.9g, not %.9g\n", p, c,
                        static_cast<double>(keep[where]), static_cast<double>(kept));
            return false;
          }
        }
      }
    }
    for (std::size_t i = 0; i < code_bytes(); ++i) {
      if (expected[i] == codes[i]) continue;
      const int y = static_cast<int>(i / row) - border;
      const int x = static_cast<int>(i % row) / pixel - border;
      std::printf("row %d column %d channel %d: byte %d, not %d\n", y, x,
                  static_cast<int>(i % row) % pixel, codes[i], expected[i]);
      return false;
    }
    return true;
  }

  ConvShape shape;
  int pixels;
  Epilogue e;
  bool has_keep;
  Memory<std::int32_t> correction, base, sign;
  Memory<float> scale, shift;
  Memory<std::int32_t> whole;
  Memory<float> real, added;
  Memory<std::uint8_t> words;
  int pixel, border;
  std::int64_t row;
};

#include "byte_ending.h"

void describe(const ConvShape& s, const char* kernel, bool prepared, const Epilogue& e) {
  std::printf(
      "%s%s: groups %d channels %d -> %d kernel %dx%d stride %dx%d padding %dx%d dilation %dx%d "
      "input %dx%d border %d limits %d %d %s bits %d %d; %s thresholds %d add %d keep %d\n",
      kernel, prepared ? "" : " (low memory)", s.groups, s.in_channels, s.out_channels, s.kernel_h,
      s.kernel_w, s.stride_h, s.stride_w, s.pad_h, s.pad_w, s.dilation_h, s.dilation_w, s.in_h,
      s.in_w, s.border, s.input_limit, s.weight_limit, s.real ? "float" : "bytes", s.weight_bits,
      s.input_bits,
      e.to_bytes  ? "byte"
      : e.integer ? "integer"
                  : "float",
      e.to_bytes ? e.bytes.thresholds : e.thresholds, e.add != nullptr || e.bytes.add != nullptr,
      e.keep != nullptr || e.bytes.keep != nullptr);
}

// Output size, border and the rest that follows from the geometry; false where nothing comes out.
bool complete(ConvShape& s, Random& random) {
  const int reach_h = s.dilation_h * (s.kernel_h - 1) + 1;
  const int reach_w = s.dilation_w * (s.kernel_w - 1) + 1;
  // Below and to the right as above and to the left, or anything else.
  const bool other = random.chance(30);
  const int below = other ? random.below(reach_h) : s.pad_h;
  const int right = other ? random.below(reach_w) : s.pad_w;
  if (s.in_h + s.pad_h + below < reach_h || s.in_w + s.pad_w + right < reach_w) return false;
  s.out_h = (s.in_h + s.pad_h + below - reach_h) / s.stride_h + 1;
  s.out_w = (s.in_w + s.pad_w + right - reach_w) / s.stride_w + 1;
  s.border = std::max({s.pad_h, s.pad_w, below, right}) + (random.chance(20) ? 1 : 0);
  s.pixel_bytes = round_up(s.in_channels, 4);
  return true;
}

// Levels of the input and the weights. Returns the byte of the value 0.
int choose_levels(ConvShape& s, Random& random) {
  s.input_bits = random.between(1, 4);
  s.weight_bits = random.between(1, 4);
  if (random.chance(s.in_channels == 4 && s.groups == 1 ? 70 : 4)) {  // the image
    s.input_bits = s.weight_bits = 0;
    s.input_limit = 255;
    const int taps = s.kernel_h * s.kernel_w * (s.in_channels / s.groups);
    const int limit = random.of({64, 64, 64, 127, 500, 32767});
    s.weight_limit = std::min({32767, INT32_MAX / (255 * taps), limit});
    // That of an integer network has another pixel outside.
    return random.chance(40) ? random.between(1, 255) : 0;
  }
  if (random.chance(10)) {  // values of 8 bits
    s.input_bits = 0;
    s.input_limit = 255;
    s.weight_limit = random.of({1, 7, 14, 14, 64});
    return random.of({0, 128});
  }
  s.weight_limit = random.of({1, 3, 7, 14, 14, 14, 28, 63, 127, 127});
  if (random.chance(20)) {
    s.real = true;
    s.input_bits = 0;
    const int taps = s.kernel_h * s.kernel_w * (s.in_channels / s.groups);
    s.input_limit =
        std::min(random.of({32767, 32767, 32639, 127}), INT32_MAX / (s.weight_limit * taps));
    s.inverse_step = random.of({1.0f, 0.125f, 4096.0f, 1234.567f});
    return 0;
  }
  s.input_limit = random.of({1, 3, 5, 7, 11, 14, 15, 15, 21, 32, 63, 127, 127});
  int left = s.input_limit, zero = 0;
  const bool negative = random.chance(15);
  for (int j = 0; j < s.input_bits; ++j) {
    const int size = j + 1 < s.input_bits ? random.below(left + 1) : left;
    left -= size;
    const bool below = negative && random.chance(50);
    s.input_basis[j] = below ? -size : size;
    if (below) zero += size;
  }
  return zero;
}

ConvShape choose_shape(Random& random) {
  ConvShape s = {};
  for (;;) {
    s.stride_h = s.stride_w = s.dilation_h = s.dilation_w = s.groups = 1;
    s.in_channels = random.of({1, 3, 4, 15, 16, 17, 63, 64, 65, 130});
    s.out_channels = random.of({1, 3, 4, 15, 16, 17, 31, 33, 63, 64, 65, 130});
    s.in_h = random.between(1, 9), s.in_w = random.between(1, 9);
    if (random.chance(15)) {  // several tasks, several groups of tiles
      s.in_channels = random.of({1, 3, 16, 17});
      s.out_channels = random.of({1, 16, 17, 35});
      s.in_h = random.between(9, 24), s.in_w = random.between(9, 24);
    }
    const int kind = random.below(10);
    if (kind < 4) {
      s.kernel_h = s.kernel_w = 3;
      s.pad_h = s.pad_w = random.of({1, 1, 1, 0, 2});
    } else if (kind < 6) {
      s.kernel_h = s.kernel_w = 1;
      s.pad_h = s.pad_w = random.chance(10) ? 1 : 0;
      s.stride_h = s.stride_w = random.of({1, 1, 2});
    } else {
      s.kernel_h = random.of({1, 2, 3, 4, 5, 7, 8}), s.kernel_w = random.of({1, 2, 3, 5, 7});
      s.pad_h = random.below(s.kernel_h), s.pad_w = random.below(s.kernel_w);
      s.stride_h = random.between(1, 3), s.stride_w = random.between(1, 3);
      s.dilation_h = random.of({1, 1, 2}), s.dilation_w = random.of({1, 1, 2});
    }
    if (random.chance(15)) {  // groups of several channels
      s.groups = random.of({2, 3, 5});
      s.in_channels = s.groups * random.of({1, 4, 7, 33});
      s.out_channels = s.groups * random.of({1, 5, 16, 18});
      s.stride_h = s.stride_w = random.of({1, 2});
    } else if (random.chance(20)) {  // depthwise
      s.out_channels = s.groups = s.in_channels;
      s.stride_h = s.stride_w = random.of({1, 1, 2});
    }
    if (random.chance(18)) {  // as of the image
      s.in_channels = 4;
      s.groups = 1;
    }
    if (complete(s, random)) return s;
  }
}

// Shapes that chance would hardly find: many channels, so that weights are cut up, and long sums.
std::vector<ConvShape> large_shapes(Random& random) {
  std::vector<ConvShape> shapes;
  const int numbers[][7] = {
      // channels in and out, kernel, padding, size, stride, groups
      {260, 130, 3, 1, 5, 1, 1}, {520, 17, 3, 1, 7, 1, 1},  {1100, 20, 1, 0, 3, 1, 1},
      {2050, 16, 3, 1, 2, 1, 1}, {200, 200, 3, 1, 6, 2, 1}, {64, 64, 3, 1, 14, 1, 1},
      {4100, 5, 3, 0, 3, 1, 1},  {36, 36, 7, 3, 8, 1, 1},   {100, 100, 3, 1, 21, 1, 100},
      {70, 70, 5, 2, 22, 2, 70}, {240, 240, 3, 1, 4, 1, 6}};
  for (const auto& n : numbers) {
    ConvShape s = {};
    s.groups = n[6];
    s.dilation_h = s.dilation_w = 1;
    s.in_channels = n[0], s.out_channels = n[1];
    s.kernel_h = s.kernel_w = n[2];
    s.pad_h = s.pad_w = n[3];
    s.in_h = s.in_w = n[4];
    s.stride_h = s.stride_w = n[5];
    if (complete(s, random)) shapes.push_back(s);
  }
  return shapes;
}

// Shapes whose kernels have loops of their own for some numbers of channels and some endings: they
// run with all of these.
std::vector<ConvShape> shapes_of_loops(Random& random) {
  std::vector<ConvShape> shapes;
  const int numbers[][6] = {// channels in and out, groups, kernel, stride, size
                            {20, 20, 20, 3, 1, 6}, {64, 64, 64, 3, 2, 11}, {100, 100, 100, 3, 1, 5},
                            {48, 48, 48, 5, 1, 3}, {33, 33, 33, 4, 1, 7},  {16, 96, 1, 1, 1, 5},
                            {16, 32, 1, 1, 1, 5},  {4, 32, 1, 3, 2, 9},    {128, 96, 1, 1, 1, 4}};
  for (const auto& n : numbers) {
    ConvShape s = {};
    s.in_channels = n[0], s.out_channels = n[1], s.groups = n[2];
    s.kernel_h = n[3], s.kernel_w = n[3] == 4 ? 3 : n[3];
    s.pad_h = s.pad_w = n[3] / 2;
    s.stride_h = s.stride_w = n[4];
    s.in_h = s.in_w = n[5];
    s.dilation_h = s.dilation_w = 1;
    if (complete(s, random)) shapes.push_back(s);
  }
  return shapes;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) return 2;
  Random random = {count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1};
  std::map<std::string, int> runs;
  for (const ConvKernel* kernel : table.conv) {
    if (kernel != nullptr) runs[kernel->name] = 0;
  }
  std::vector<std::pair<ConvShape, Extreme>> cases;
  for (const ConvShape& shape : large_shapes(random)) {
    for (const Extreme extreme : {Extreme{0, 0}, {1, 0}, {1, 1}, {1, 2}, {1, 4}}) {
      cases.push_back({shape, extreme});
    }
  }
  // What an epilogue can be: with the results of integer thresholds nothing else is written.
  const int endings = 5 + 4 + 8 + 10;
  for (const ConvShape& shape : shapes_of_loops(random)) {
    for (int i = 0; i < endings; ++i) cases.push_back({shape, Extreme{0, 0}});
  }
  for (int i = std::atoi(arguments[1]); i > 0; --i) {
    const bool extreme = random.chance(40);
    const Extreme how = {random.between(1, 3), random.below(5)};
    cases.push_back({choose_shape(random), extreme ? how : Extreme{0, 0}});
  }
  int ending = 0;
  for (auto [shape, extreme] : cases) {
    const int zero = choose_levels(shape, random);
    shape.fill = zero;
    shape.threads = random.below(4);
    Case of(shape, zero, extreme, random);
    for (const ConvKernel* kernel : table.conv) {
      if (kernel == nullptr || !rsquant::takes(*kernel, shape)) continue;
      for (const bool prepared : {true, false}) {
        if (!prepared && !kernel->low_memory) continue;
        const int which = ending++ % endings;
        const int sizes[] = {0, 1, 3, 7, 15};
        if (which >= 17) {
          const int thresholds = sizes[which % 5];
          const bool add = random.chance(70), keep = thresholds == 0 || random.chance(60);
          ByteEnding end(of, thresholds, add, keep, random.chance(40), random);
          if (!end.holds(of, *kernel, prepared, random)) {
            describe(shape, kernel->name, prepared, end.e);
            return 1;
          }
          ++runs[kernel->name];
          continue;
        }
        const bool integer = which >= 5 && which < 9;
        const int thresholds = which < 9 ? sizes[which % 5 + (integer ? 1 : 0)] : sizes[which % 5];
        const bool add = !integer && random.chance(50);
        const bool keep = !integer && (thresholds == 0 || random.chance(50));
        Ending end(of, thresholds, integer, add, keep, random);
        if (!end.holds(of, *kernel, prepared, random)) {
          describe(shape, kernel->name, prepared, end.e);
          return 1;
        }
        ++runs[kernel->name];
      }
    }
  }
  for (const auto& [name, number] : runs) std::printf("%s: %d\n", name.c_str(), number);
  return 0;
}
