// The segments of a convolution by tables: no sum is ever too large, none is widened before it must
// be, and there is room for them; of windows that leave out runs at their ends, too. See
// test_plan.py.

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "lookup_plan.h"
#include "lookup_windows.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kLanesHere = 3;

// Byte sums of given steps; a word is the sum of two bytes times given factors.
struct Given {
  static constexpr int kBytes = 2 * kLanesHere, kWords = kLanesHere;
  const std::vector<std::vector<int>>& steps;
  const int (&factor)[kBytes];
  std::size_t at = 0;

  void step(std::uint16_t* bytes) {
    for (int j = 0; j < kBytes; ++j) {
      bytes[j] = static_cast<std::uint16_t>(steps[at][static_cast<std::size_t>(j)]);
    }
    ++at;
  }
  void weigh(const std::uint16_t* bytes, std::int32_t* words) const {
    for (int j = 0; j < kWords; ++j) {
      words[j] = bytes[2 * j] * factor[2 * j] + bytes[2 * j + 1] * factor[2 * j + 1];
    }
  }
};

int fail(const char* what, int number) {
  std::printf("plan %d: %s\n", number, what);
  return 1;
}

// What a tile would do with these segments, step by step.
int check(int number, int limit, bool narrow, int most_factor) {
  ConvShape s = {};
  s.groups = s.stride_h = s.stride_w = s.dilation_h = 1;
  s.dilation_w = std::rand() % 2 + 1;  // each tap a run, or each row of taps
  s.in_channels = std::rand() % 200 + 1;
  s.out_channels = 16;
  s.kernel_h = std::rand() % 3 + 1, s.kernel_w = std::rand() % 3 + 1;
  s.in_h = s.in_w = s.out_h = s.out_w = 9;
  s.weight_bits = 2;
  s.input_limit = limit;
  const Layout layout(s);
  const int total = layout.runs * layout.run_steps;
  const int largest = kChannels * layout.steps.tables * limit;  // of a step, all bits set
  std::vector<std::vector<int>> steps;
  const int percent = std::rand() % 101;
  for (int i = 0; i < total; ++i) {
    std::vector<int> of;
    for (int j = 0; j < Given::kBytes; ++j) {
      of.push_back(std::rand() % 100 < percent ? largest : std::rand() % (largest + 1));
    }
    steps.push_back(of);
  }
  int factor[Given::kBytes];
  for (int j = 0; j < Given::kWords; ++j) {
    factor[2 * j] = std::rand() % (most_factor + 1);
    factor[2 * j + 1] = most_factor - factor[2 * j];
  }
  std::vector<Segment> segments(layout.segments() + 1);
  segments.back() = {-1, -1};
  write_plan(Given{steps, factor}, layout, narrow, segments.data());
  if (segments.back().steps != -1 || segments.back().then != -1) return fail("no room", number);

  const bool seldom = layout.steps.together > 1;
  const int tap_steps = (layout.group + layout.steps.tables - 1) / layout.steps.tables;
  const bool whole = std::rand() % 2 == 0;
  const int first = whole ? 0 : std::rand() % layout.runs;
  const int last = whole ? layout.runs : first + 1 + std::rand() % (layout.runs - first);
  int bytes[Given::kBytes] = {}, run = first, in_run = 0;
  std::int64_t words[Given::kWords] = {}, all[Given::kWords] = {}, expected[Given::kWords] = {};
  std::size_t at = static_cast<std::size_t>(first * layout.run_steps);
  const auto to_words = [&](std::int64_t* to) {
    for (int j = 0; j < Given::kWords; ++j) {
      to[j] += bytes[2 * j] * factor[2 * j] + bytes[2 * j + 1] * factor[2 * j + 1];
    }
  };
  const Segment* next = first_segment(segments.data(), first);
  while (run < last) {
    const Segment segment = *next++;
    if (segment.steps <= 0) return fail("an empty segment", number);
    for (int k = 0; k < segment.steps; ++k, ++at, ++in_run) {
      if (at >= steps.size()) return fail("too many steps", number);
      for (int j = 0; j < Given::kBytes; ++j) {
        if (!seldom) bytes[j] = 0;
        bytes[j] += steps[at][static_cast<std::size_t>(j)];
        if (bytes[j] > 255) return fail("a byte is too full", number);
      }
      if (!seldom) to_words(words);
      for (int j = 0; j < Given::kWords; ++j) {
        expected[j] += steps[at][static_cast<std::size_t>(2 * j)] * factor[2 * j] +
                       steps[at][static_cast<std::size_t>(2 * j + 1)] * factor[2 * j + 1];
      }
      for (const std::int64_t word : words) {
        if (!narrow && word > 65535) return fail("a word is too full", number);
      }
    }
    const int then = segment.then;
    if ((then & kEndOfRun) != 0) {
      if (in_run != layout.run_steps) return fail("a run of another length", number);
      ++run, in_run = 0;
    }
    if (layout.taps_apart && ((then & kEndOfTap) != 0) != (in_run % tap_steps == 0)) {
      return fail("a tap of another length", number);
    }
    const bool end = run == last;
    if (seldom && ((then & kToWords) != 0 || end)) {
      to_words(words);
      bool needed = end || !whole;
      for (int j = 0; j < Given::kBytes && !needed; ++j) {
        needed = bytes[j] + steps[at][static_cast<std::size_t>(j)] > 255;
      }
      if (!needed) return fail("bytes are widened too soon", number);
      for (int& byte : bytes) byte = 0;
    }
    for (const std::int64_t word : words) {
      if (!narrow && word > 65535) return fail("a word is too full", number);
    }
    if ((then & kToWide) != 0 || end) {
      if (narrow && (then & kToWide) != 0) return fail("narrow sums are widened", number);
      for (int j = 0; j < Given::kWords; ++j) all[j] += words[j], words[j] = 0;
    }
  }
  if (at != static_cast<std::size_t>(last * layout.run_steps)) return fail("not all steps", number);
  for (int j = 0; j < Given::kWords; ++j) {
    if (all[j] != expected[j]) return fail("another sum", number);
  }
  return 0;
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant

int main() {
  using namespace rsquant::RSQUANT_ISA;
  std::srand(1);
  for (int number = 0; number < 20000; ++number) {
    const int limits[] = {1, 2, 3, 5, 6, 7, 11, 14, 15};
    const int factors[] = {1, 3, 14, 28, 126};
    const int limit = limits[std::rand() % 9];
    if (check(number, limit, std::rand() % 3 == 0, factors[std::rand() % 5]) != 0) return 1;
  }
  std::puts("20000 plans");
  return 0;
}
