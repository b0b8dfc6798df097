// Which instruction sets this processor has, and the split of a tensor over threads.

#include "dispatch.h"

#include <algorithm>
#include <system_error>
#include <thread>

#if defined(RSQUANT_HAVE_NEONDOT) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace rsquant {
namespace {

// Another architecture's, or left out with RSQUANT_ONLY.
constexpr char kNotBuilt[] = "not in this build";

// Fewest blocks that pay for another thread: starting and joining one took 27 to 39 us (500 runs,
// minimum to 90th percentile, on a busy 2-core Zen 3), a block of 4 levels 11 to 16 us with AVX2.
// Threads are started per call, not kept in a pool: a pool does not survive the fork() by which
// data loaders start their workers.
constexpr std::size_t kBlocksPerThread = 8;

#if defined(RSQUANT_HAVE_AVX2)
// __builtin_cpu_supports takes literals only; it also asks whether the system saves the registers.
std::string missing_avx2() {
  if (!__builtin_cpu_supports("avx2")) return "this processor has no AVX2";
  if (!__builtin_cpu_supports("fma")) return "this processor has no FMA";
  return {};
}
#endif

#if defined(RSQUANT_HAVE_AVX512) || defined(RSQUANT_HAVE_AVX512VNNI)
std::string missing_avx512() {
  if (!__builtin_cpu_supports("avx512f")) return "this processor has no AVX-512 (avx512f)";
  if (!__builtin_cpu_supports("avx512bw")) return "this processor has no avx512bw";
  if (!__builtin_cpu_supports("avx512dq")) return "this processor has no avx512dq";
  if (!__builtin_cpu_supports("avx512vl")) return "this processor has no avx512vl";
  return {};
}
#endif

#if defined(RSQUANT_HAVE_AVX512VNNI)
std::string missing_avx512vnni() {
  const std::string missing = missing_avx512();
  if (!missing.empty()) return missing;
  if (!__builtin_cpu_supports("avx512vnni")) return "this processor has no AVX-512 VNNI";
  // Sold together since Ice Lake and Zen 4; only Cascade and Cooper Lake have the first alone.
  if (!__builtin_cpu_supports("avx512vpopcntdq")) return "this processor has no AVX-512 VPOPCNTDQ";
  if (!__builtin_cpu_supports("avx512vbmi")) return "this processor has no AVX-512 VBMI";
  return {};
}
#endif

#if defined(RSQUANT_HAVE_NEONDOT)
std::string missing_neondot() {
#if defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) return {};
#endif
  return "this processor has no dot product (asimddp), or the system does not tell";
}
#endif

std::vector<Isa> find_instruction_sets() {
  std::vector<Isa> found;
#if defined(RSQUANT_HAVE_AVX512VNNI)
  found.push_back({"avx512vnni", &avx512vnni::table, missing_avx512vnni()});
#else
  found.push_back({"avx512vnni", nullptr, kNotBuilt});
#endif
#if defined(RSQUANT_HAVE_AVX512)
  found.push_back({"avx512", &avx512::table, missing_avx512()});
#else
  found.push_back({"avx512", nullptr, kNotBuilt});
#endif
#if defined(RSQUANT_HAVE_AVX2)
  found.push_back({"avx2", &avx2::table, missing_avx2()});
#else
  found.push_back({"avx2", nullptr, kNotBuilt});
#endif
#if defined(RSQUANT_HAVE_NEONDOT)
  found.push_back({"neondot", &neondot::table, missing_neondot()});
#else
  found.push_back({"neondot", nullptr, kNotBuilt});
#endif
#if defined(RSQUANT_HAVE_NEON)
  found.push_back({"neon", &neon::table, {}});
#else
  found.push_back({"neon", nullptr, kNotBuilt});
#endif
#if defined(RSQUANT_HAVE_SCALAR)
  found.push_back({"scalar", &scalar::table, {}});
#else
  found.push_back({"scalar", nullptr, kNotBuilt});
#endif
  return found;
}

// Calls work(first, last) on contiguous ranges that cover all blocks.
template <class Work>
void over_blocks(std::size_t blocks, int threads, const Work& work) {
  const std::size_t most = std::max<std::size_t>(1, blocks / kBlocksPerThread);
  const std::size_t parts = std::min<std::size_t>(static_cast<std::size_t>(threads), most);
  std::vector<std::thread> others;
  others.reserve(parts);
  std::size_t first = 0;
  for (std::size_t part = 0; part + 1 < parts; ++part) {
    const std::size_t last = blocks * (part + 1) / parts;
    try {
      others.emplace_back([&work, first, last] { work(first, last); });
    } catch (const std::system_error&) {
      break;  // no more threads to be had: the caller's own does the rest
    }
    first = last;
  }
  work(first, blocks);
  for (std::thread& other : others) other.join();
}

std::size_t blocks_of(std::size_t n) { return (n + kBlock - 1) / kBlock; }

}  // namespace

const std::vector<Isa>& instruction_sets() {
  static const std::vector<Isa> found = find_instruction_sets();
  return found;
}

namespace {

// Calls block(start, count, stats) for all blocks of n values, and adds up what it counted: in the
// order of the blocks, whoever computed them, so the sum is the same for any `threads`.
template <class Block>
void add_blocks(std::size_t n, int levels, int threads, LevelStats& stats, const Block& block) {
  std::vector<LevelStats> parts(blocks_of(n));
  over_blocks(parts.size(), threads, [&](std::size_t first, std::size_t last) {
    for (std::size_t number = first; number < last; ++number) {
      const std::size_t start = number * kBlock;
      block(start, std::min(kBlock, n - start), parts[number]);
    }
  });
  stats = LevelStats{};
  for (const LevelStats& part : parts) {
    for (int k = 0; k < levels; ++k) {
      stats.counts[k] += part.counts[k];
      stats.sums[k] += part.sums[k];
    }
  }
}

}  // namespace

void quantize(const Kernels& kernels, const float* x, std::size_t n, const Levels& levels,
              float* out, int threads, LevelStats& stats) {
  add_blocks(n, levels.count, threads, stats,
             [&](std::size_t start, std::size_t count, LevelStats& part) {
               kernels.quantize_block(x + start, count, levels, out + start, part);
             });
}

void quantize_inside(const Kernels& kernels, const float* x, std::size_t n, const Levels& levels,
                     const Inside& passes, float* out, std::uint16_t* inside, int threads,
                     LevelStats& stats) {
  add_blocks(n, levels.count, threads, stats,
             [&](std::size_t start, std::size_t count, LevelStats& part) {
               kernels.quantize_block_inside(x + start, count, levels, passes, out + start,
                                             inside + inside_words(start), part);
             });
}

void quantize_rows(const Kernels& kernels, const Rows& of, int threads) {
  const std::size_t count = static_cast<std::size_t>(of.count);
  // Rows of about a block together.
  const std::size_t rows = std::max<std::size_t>(1, kBlock / std::max<std::size_t>(1, of.n));
  over_blocks((of.rows + rows - 1) / rows, threads, [&](std::size_t first, std::size_t last) {
    for (std::size_t row = first * rows; row < std::min(last * rows, of.rows); ++row) {
      Levels levels = {};
      levels.count = of.count;
      std::copy_n(of.levels + row * count, count, levels.levels);
      std::copy_n(of.thresholds + row * (count - 1), count - 1, levels.thresholds);
      LevelStats stats;
      kernels.quantize_row(of.x + row * of.n, of.n, levels, of.out + row * of.n, stats);
      std::copy_n(stats.counts, count, of.counts + row * count);
      std::copy_n(stats.sums, count, of.sums + row * count);
    }
  });
}

void mask_gradient(const Kernels& kernels, const float* grad, const std::uint16_t* inside,
                   std::size_t n, float* out, int threads) {
  over_blocks(blocks_of(n), threads, [&](std::size_t first, std::size_t last) {
    const std::size_t start = first * kBlock;
    const std::size_t end = std::min(last * kBlock, n);
    if (start < end) {
      kernels.mask_gradient(grad + start, inside + inside_words(start), end - start, out + start);
    }
  });
}

void clip_gradient(const Kernels& kernels, const float* grad, const float* x, std::size_t n,
                   float bottom, float top, float* out, int threads) {
  over_blocks(blocks_of(n), threads, [&](std::size_t first, std::size_t last) {
    const std::size_t start = first * kBlock;
    const std::size_t end = std::min(last * kBlock, n);
    if (start < end) {
      kernels.clip_gradient(grad + start, x + start, end - start, bottom, top, out + start);
    }
  });
}

}  // namespace rsquant
