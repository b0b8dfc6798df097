#include "bounds.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "pool.h"
#include "program.h"

namespace rsquant {
namespace {

constexpr int kRuns = 5;
constexpr double kCopySeconds = 0.003;

double seconds_of(const auto& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

double products_per_ns(std::int64_t (*loop)(std::int64_t iterations), int threads) {
  constexpr std::int64_t kIterations = 20000;
  Pool pool(threads);
  // Several tasks a thread, as one of them may be late.
  const int parts = threads == 1 ? 1 : 4;
  const int tasks = threads * parts;
  double best = 0.0;
  for (int run = 0; run < kRuns; ++run) {
    std::vector<std::int64_t> products(static_cast<std::size_t>(tasks));
    const double seconds = seconds_of([&] {
      pool.run(tasks, [&](int task, int) {
        products[static_cast<std::size_t>(task)] = loop(kIterations / parts);
      });
    });
    double sum = 0.0;
    for (const std::int64_t n : products) sum += static_cast<double>(n);
    best = std::max(best, sum / seconds / 1e9);
  }
  return best;
}

double bytes_copied_per_ns(std::int64_t block, int threads) {
  const std::size_t half = static_cast<std::size_t>(block) / 2;
  const std::size_t part = (half + static_cast<std::size_t>(threads) - 1) / threads;
  Buffer from(half), to(half);
  std::memset(from.data(), 1, half);
  std::memset(to.data(), 1, half);
  Pool pool(threads);
  const auto copy = [&] {
    pool.run(threads, [&](int task, int) {
      const std::size_t start = std::min(half, static_cast<std::size_t>(task) * part);
      std::memcpy(to.data() + start, from.data() + start, std::min(part, half - start));
    });
  };
  const double once = std::max(seconds_of(copy), 1e-9);
  const int times = std::max(1, static_cast<int>(std::min(kCopySeconds / once, 1e5)));
  double best = 0.0;
  for (int run = 0; run < kRuns; ++run) {
    const double seconds = seconds_of([&] {
      for (int i = 0; i < times; ++i) copy();
    });
    best = std::max(best, 2.0 * static_cast<double>(half) * times / seconds / 1e9);
  }
  return best;
}

}  // namespace rsquant
