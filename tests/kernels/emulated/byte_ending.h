// An epilogue to bytes with its tables and results, checked in scalar arithmetic; part of
// driver.cpp, whose Case, Memory and Random it uses.
#pragma once

// Bytes of a map with a border, and where its pixels lie.
struct ByteMap {
  ByteMap(const ConvShape& s, Random& random)
      : pixel(round_up(s.out_channels, 4)),
        border(random.below(3)),
        row(static_cast<std::int64_t>(s.out_w + 2 * border) * pixel),
        width(s.out_w),
        bytes(static_cast<std::size_t>((s.out_h + 2 * border) * row), random) {}
  std::size_t at(int p, int c) const {
    return static_cast<std::size_t>((p / width + border) * row +
                                    (p % width + border) * std::int64_t{pixel} + c);
  }
  std::uint8_t* start() { return bytes.data() + border * (row + pixel); }
  std::vector<std::uint8_t> copy() { return {bytes.data(), bytes.data() + bytes.size()}; }

  int pixel, border;
  std::int64_t row;
  int width;
  Memory<std::uint8_t> bytes;
};

struct ByteEnding {
  static std::size_t padded(const ConvShape& s) {
    return static_cast<std::size_t>(rsquant::padded_channels(s.out_channels));
  }

  // in_place: the sum takes the place of what is added.
  ByteEnding(const Case& of, int thresholds, bool add, bool keep, bool in_place, Random& random)
      : shape(of.shape),
        pixels(of.shape.out_h * of.shape.out_w),
        in_place(in_place && add && keep),
        bias(padded(shape), random),
        factor(padded(shape), random),
        threshold(padded(shape) * static_cast<std::size_t>(thresholds), random),
        step(padded(shape) * static_cast<std::size_t>(thresholds), random),
        base(padded(shape), random),
        added(shape, random),
        kept(shape, random),
        codes(shape, random),
        words(padded(shape), random),
        ranks(rsquant::byte_ranks_bytes(static_cast<std::int64_t>(padded(shape))), random) {
    e = {};
    e.to_bytes = true;
    rsquant::ByteEpilogue& b = e.bytes;
    b.bias = bias.data(), b.factor = factor.data(), b.base = base.data();
    b.thresholds = thresholds;
    const int branch = random.of({0, 128}), zero = random.of({0, 128});
    const int add_zero = add ? random.of({0, 128}) : 0;
    b.low = static_cast<std::int16_t>(add ? -branch : -zero);
    b.high = static_cast<std::int16_t>(add ? 255 - branch : 255 - zero);
    b.offset = static_cast<std::int16_t>(zero - add_zero);
    b.least = static_cast<std::int16_t>(random.chance(30) ? zero : 0);
    b.most = static_cast<std::int16_t>(random.chance(30) ? zero + random.below(128) : 255);
    if (!add) b.low = static_cast<std::int16_t>(b.least - zero);
    if (!add) b.high = static_cast<std::int16_t>(b.most - zero);
    // Behind the last channel tables hold zeros.
    bias.clear(), factor.clear(), threshold.clear(), step.clear(), base.clear();
    float size = 1;
    for (const std::int32_t sum : of.sums) size = std::max(size, std::abs(static_cast<float>(sum)));
    // n + B is an int32; sums of an integer network are at most 2^24.
    std::int64_t room = INT32_MAX;
    for (const std::int32_t sum : of.sums) {
      room = std::min(room, INT32_MAX - std::abs(std::int64_t{sum}));
    }
    room = std::max<std::int64_t>(room, 0);
    const bool huge = random.chance(20);
    for (int c = 0; c < shape.out_channels; ++c) {
      const std::size_t at = static_cast<std::size_t>(c);
      bias[at] = random.between(-1000, 1000);
      factor[at] = random.real(-200, 200) / size;
      if (random.chance(5)) bias[at] = random.of({1 << 30, -(1 << 30)}), factor[at] = 1e-7f;
      bias[at] = static_cast<std::int32_t>(std::clamp<std::int64_t>(bias[at], -room, room));
      if (random.chance(10)) factor[at] = random.of({0.5f, -0.5f, 0.25f, 1e-38f});  // halves
      if (huge && random.chance(30)) factor[at] = random.of({1e30f, -1e30f, 3.5f, -1.0f});
      base[at] = static_cast<std::uint8_t>(random.below(256));
      for (int k = 0; k < thresholds; ++k) {
        threshold[padded(shape) * k + at] = static_cast<std::int8_t>(random.below(256) - 128);
        step[padded(shape) * k + at] = static_cast<std::uint8_t>(random.below(256));
      }
    }
    const bool on_grid = random.chance(60) && set_grid(of, random);
    words.clear();
    rsquant::make_byte_words(b, shape.out_channels, add, words.data());
    if (b.words == nullptr && on_grid && b.low == -128 && b.high == 127 &&
        b.offset == (add ? 0 : 128)) {
      std::abort();
    }
    const bool most = thresholds == rsquant::kMaxThresholds, ordered = random.chance(70);
    if (most && ordered) order(random);
    for (std::size_t i = 0; i < padded(shape) * static_cast<std::size_t>(thresholds); ++i) {
      given_threshold.push_back(threshold[i]);
      given_step.push_back(step[i]);
    }
    if (most) {
      b.ranks = rsquant::make_byte_ranks(
          {threshold.data(), step.data(), base.data(), static_cast<std::int64_t>(padded(shape))},
          shape.out_channels, ranks.data());
      // Others have none, but their tables may have changed.
      if (ordered && b.ranks.tables == nullptr) std::abort();
    }
    b.large = std::any_of(factor.data(), factor.data() + shape.out_channels,
                          [](float f) { return f >= 1.0f || f <= -1.0f; });
    for (int k = 0; k < thresholds; ++k) {
      b.threshold[k] = threshold.data() + padded(shape) * static_cast<std::size_t>(k);
      b.step[k] = step.data() + padded(shape) * static_cast<std::size_t>(k);
    }
    ByteMap& target = this->in_place ? added : kept;
    if (add) b.add = added.start(), b.add_row = added.row, b.add_pixel = added.pixel;
    if (keep) b.keep = target.start(), b.keep_row = target.row, b.keep_pixel = target.pixel;
    if (thresholds > 0) {
      b.codes = codes.start(), b.codes_row = codes.row, b.codes_pixel = codes.pixel;
    }
  }

  // Factors that are multiples of 2^-15, and biases that take sums to where 16 bits end and to
  // halves of codes. Returns whether codes are always the same in 16 bits: factors are odd and
  // large.
  bool set_grid(const Case& of, Random& random) {
    const int kind = random.below(4);
    const std::size_t channels = static_cast<std::size_t>(shape.out_channels);
    for (std::size_t c = 0; c < channels; ++c) {
      const int m = kind == 0   ? 2 * random.below(1 << 14) % (1 << random.of({7, 8, 14})) + 1
                    : kind == 1 ? random.of({255, 257, 259, 32767})
                    : kind == 2 ? random.of({257, 512, 1024, 24576, 32766})
                                : 257 + 2 * random.below((32767 - 257) / 2 + 1);
      factor[c] = static_cast<float>(random.chance(50) ? m : -m) / (1 << 15);
      if (random.chance(40)) continue;
      const std::size_t p = static_cast<std::size_t>(random.below(pixels));
      const int end = random.of({1 << 15, 1 << 14, 1 << 13, 0}) + random.of({-1, 0, 0, 1});
      const std::int32_t sum = of.sums[p * channels + c];
      if (std::abs(sum) < 1 << 24) bias[c] = (random.chance(50) ? end : -end) - sum;
    }
    return kind == 3;
  }

  // Thresholds that ascend, or descend where steps are negative: see byte_ranks.h.
  void order(Random& random) {
    const auto n = static_cast<std::int64_t>(padded(shape));
    const int count = rsquant::kMaxThresholds;
    std::vector<int> sizes;
    for (int k = 0; k < count; ++k) sizes.push_back(random.below(8));
    for (int c = 0; c < shape.out_channels; ++c) {
      std::vector<std::int8_t> bounds;
      for (int k = 0; k < count; ++k) {
        bounds.push_back(static_cast<std::int8_t>(random.below(256) - 128));
      }
      std::sort(bounds.begin(), bounds.end());
      const bool falls = random.chance(30);
      const int always = random.chance(30) ? random.below(count + 1) : 0;
      if (falls) std::reverse(bounds.begin(), bounds.end());
      for (int k = 0; k < count; ++k) {
        const bool part = falls ? k >= count - always : k < always;  // of the base
        const int size = part ? 0 : sizes[static_cast<std::size_t>(k)];
        threshold[n * k + c] = part ? std::int8_t{-128} : bounds[static_cast<std::size_t>(k)];
        step[n * k + c] = static_cast<std::uint8_t>(falls ? -size : size);
      }
    }
  }

  int byte(const Case& of, const std::vector<std::uint8_t>& add, int p, int c) {
    const std::size_t at = static_cast<std::size_t>(c);
    const rsquant::ByteEpilogue& b = e.bytes;
    const std::size_t where = static_cast<std::size_t>(p) * shape.out_channels + at;
    const float y = static_cast<float>(of.sums[where] + bias[at]) * factor[at];
    const float limited =
        std::min(std::max(y, static_cast<float>(b.low)), static_cast<float>(b.high));
    int code = static_cast<int>(std::nearbyint(limited)) + b.offset;
    if (b.add != nullptr) code += add[added.at(p, c)];
    return std::min(std::max(code, int{b.least}), int{b.most});
  }

  // Runs a kernel; false, with a message, where a result differs.
  bool holds(Case& of, const ConvKernel& kernel, bool prepared, Random& random) {
    const std::vector<std::uint8_t> before = added.copy();
    ByteMap& target = in_place ? added : kept;
    std::vector<std::uint8_t> bytes = target.copy(), levels = codes.copy();
    for (int p = 0; p < pixels; ++p) {
      for (int c = 0; c < shape.out_channels; ++c) {
        const int found = byte(of, before, p, c);
        int level = base[static_cast<std::size_t>(c)];
        for (int k = 0; k < e.bytes.thresholds; ++k) {
          const std::size_t at = padded(shape) * static_cast<std::size_t>(k) + c;
          level += found - 128 > given_threshold[at] ? given_step[at] : 0;
        }
        if (e.bytes.keep != nullptr) bytes[target.at(p, c)] = static_cast<std::uint8_t>(found);
        if (e.bytes.codes != nullptr) levels[codes.at(p, c)] = static_cast<std::uint8_t>(level);
      }
    }
    run_kernel(of, kernel, prepared, e, random);
    return same("bytes", target, bytes) && same("levels", codes, levels);
  }

  static bool same(const char* what, ByteMap& map, const std::vector<std::uint8_t>& expected) {
    for (std::size_t i = 0; i < expected.size(); ++i) {
      if (expected[i] == map.bytes[i]) continue;
      std::printf("%s: row %d column %d channel %d: %d, not %d\n", what,
                  static_cast<int>(i / map.row) - map.border,
                  static_cast<int>(i % map.row) / map.pixel - map.border,
                  static_cast<int>(i % map.row) % map.pixel, map.bytes[i], expected[i]);
      return false;
    }
    return true;
  }

  ConvShape shape;
  int pixels;
  bool in_place;
  Epilogue e;
  Memory<std::int32_t> bias;
  Memory<float> factor;
  Memory<std::int8_t> threshold;
  Memory<std::uint8_t> step, base;
  ByteMap added, kept, codes;
  Memory<std::int16_t> words;
  Memory<std::uint8_t> ranks;
  // As they were given.
  std::vector<int> given_threshold, given_step;
};
