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

#if defined(RSQUANT_HAVE_AVX512)
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
  found.push_back({"scalar", &scalar::table, {}});
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

void quantize(const Kernels& kernels, const float* x, std::size_t n, const Levels& levels,
              float* out, int threads, LevelStats& stats) {
  std::vector<LevelStats> parts(blocks_of(n));
  over_blocks(parts.size(), threads, [&](std::size_t first, std::size_t last) {
    for (std::size_t block = first; block < last; ++block) {
      const std::size_t start = block * kBlock;
      kernels.quantize_block(x + start, std::min(kBlock, n - start), levels, out + start,
                             parts[block]);
    }
  });
  // In the order of the blocks, whoever computed them: the sum is the same for any `threads`.
  stats = LevelStats{};
  for (const LevelStats& part : parts) {
    for (int k = 0; k < levels.count; ++k) {
      stats.counts[k] += part.counts[k];
      stats.sums[k] += part.sums[k];
    }
  }
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
