// Quantize to levels, with the counts and sums per level, in one pass over the data.
//
// Compiled once per instruction set; RSQUANT_ISA names the namespace.
//
// Derivation. Thresholds t_1 <= ... <= t_{L-1} ascend, so the masks m_k = (x > t_k) are nested:
// m_k true implies m_{k-1} true. Hence
//   output      start from level 0 and replace by level k where m_k, for k = 1, 2, ...;
//   level of x  is k exactly where m_k and not m_{k+1} (m_0 = true, m_L = false);
//   counts      let c_k = number of values with m_k; level k holds c_k - c_{k+1}, in integers.
// The sums are taken of each level by itself, not as differences of "sum where m_k": a level with
// few or small values next to one with many would lose its digits in the subtraction, and one
// infinite value would turn every sum into NaN instead of the top one into infinity.
//
// Rounding. Value i belongs to lane i mod 16. A chunk is 256 values, so a lane adds 16 of them in
// float32, from zero: 15 roundings, hence an error of at most 15 * 2^-24 * sum|x| = 8.9e-7 sum|x|
// (1e-6 is promised). The lanes are then added in float64, lane i to accumulator i mod 4, whose
// rounding is negligible. The order is part of the contract: it does not depend on the width of
// the vectors, so all instruction sets give the same bits.
//
// The loop over a chunk goes through 16 values of one vector's lanes before the next vector's:
// that keeps L sums, L-1 counts and the thresholds in registers even where a vector is 4 lanes,
// and a chunk (1 KiB) stays in the first-level cache.

#include "kernels.h"

#include <cstring>

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

#if defined(__AVX512F__)
constexpr std::size_t kWidth = 16;
#elif defined(__AVX2__)
constexpr std::size_t kWidth = 8;
#else
constexpr std::size_t kWidth = 4;  // SSE2 and NEON: the baselines of x86-64 and 64-bit ARM
#endif
static_assert(kLanes % kWidth == 0, "a vector holds whole lanes");

typedef float Floats __attribute__((vector_size(kWidth * sizeof(float))));
typedef std::int32_t Ints __attribute__((vector_size(kWidth * sizeof(float))));

inline Floats load(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

inline void store(float* to, Floats v) { std::memcpy(to, &v, sizeof(v)); }

// A difference, because "0 + value" would turn -0 into +0 (and so could not be optimised away).
inline Floats broadcast(float value) { return value - Floats{}; }

// Counts of "x > t_k" per vector element, and float64 sums per level, of the chunks so far.
// 32-bit counts hold a block: at most kBlock / kWidth = 8,192 per element.
template <int L>
struct Totals {
  Ints above[L];
  double sums[L][4];
};

template <int L>
inline void quantize_chunk(const float* x, const Levels& levels, float* out, Totals<L>& totals) {
  // Copies, because the compiler must assume that a store to `out` could change `levels`.
  Floats level[L], threshold[L];
  for (int k = 0; k < L; ++k) level[k] = broadcast(levels.levels[k]);
  for (int k = 1; k < L; ++k) threshold[k] = broadcast(levels.thresholds[k - 1]);

  for (std::size_t first = 0; first < kLanes; first += kWidth) {
    Floats sums[L] = {};
    Ints above[L] = {};
    for (std::size_t row = first; row < kChunk; row += kLanes) {
      const Floats v = load(x + row);
      Floats q = level[0];
      Floats reached = v;  // v where m_k, else 0
#pragma GCC unroll 16
      for (int k = 1; k < L; ++k) {
        const Ints mask = v > threshold[k];
        q = mask ? level[k] : q;
        sums[k - 1] += mask ? Floats{} : reached;
        reached = mask ? v : Floats{};
        above[k] -= mask;  // a true mask is -1
      }
      sums[L - 1] += reached;
      store(out + row, q);
    }
    for (int k = 0; k < L; ++k) {
      totals.above[k] += above[k];
      float lanes[kWidth];
      store(lanes, sums[k]);
      for (std::size_t lane = 0; lane < kWidth; lane += 4) {
        for (int i = 0; i < 4; ++i) totals.sums[k][i] += static_cast<double>(lanes[lane + i]);
      }
    }
  }
}

// The last chunk of a tensor goes through a buffer filled up with zeros. A zero adds nothing to
// any sum; the zeros are taken out of the counts by quantizing one more zero.
template <int L>
inline std::int64_t quantize_tail(const float* x, std::size_t n, const Levels& levels, float* out,
                                  Totals<L>& totals, int* level_of_zero) {
  float buffer[kChunk] = {};
  std::memcpy(buffer, x, n * sizeof(float));
  quantize_chunk<L>(buffer, levels, buffer, totals);
  std::memcpy(out, buffer, n * sizeof(float));
  *level_of_zero = 0;
  while (*level_of_zero < L - 1 && 0.0f > levels.thresholds[*level_of_zero]) ++*level_of_zero;
  return static_cast<std::int64_t>(kChunk - n);
}

template <int L>
void quantize_levels(const float* x, std::size_t n, const Levels& levels, float* out,
                     LevelStats& stats) {
  Totals<L> totals = {};
  const std::size_t whole = n - n % kChunk;
  for (std::size_t i = 0; i < whole; i += kChunk) {
    quantize_chunk<L>(x + i, levels, out + i, totals);
  }
  int level_of_zero = 0;
  std::int64_t filled = 0;
  if (whole < n) {
    filled = quantize_tail<L>(x + whole, n - whole, levels, out + whole, totals, &level_of_zero);
  }

  std::int64_t reached = static_cast<std::int64_t>(n) + filled;
  for (int k = 0; k < L; ++k) {
    std::int64_t next = 0;
    if (k + 1 < L) {
      for (std::size_t i = 0; i < kWidth; ++i) next += totals.above[k + 1][i];
    }
    stats.counts[k] = reached - next;
    reached = next;
    const double* sums = totals.sums[k];
    stats.sums[k] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
  stats.counts[level_of_zero] -= filled;
}

void quantize_block(const float* x, std::size_t n, const Levels& levels, float* out,
                    LevelStats& stats) {
  switch (levels.count) {
    case 2:
      return quantize_levels<2>(x, n, levels, out, stats);
    case 4:
      return quantize_levels<4>(x, n, levels, out, stats);
    case 8:
      return quantize_levels<8>(x, n, levels, out, stats);
    case 16:
      return quantize_levels<16>(x, n, levels, out, stats);
  }
}

// A comparison with NaN is false, so a NaN activation passes no gradient on.
void clip_gradient(const float* grad, const float* x, std::size_t n, float bottom, float top,
                   float* out) {
  const Floats low = broadcast(bottom);
  const Floats high = broadcast(top);
  std::size_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const Floats g = load(grad + i);
    const Floats value = load(x + i);
    const Ints mask = (value >= low) & (value <= high);
    store(out + i, mask ? g : Floats{});
  }
  for (; i < n; ++i) out[i] = x[i] >= bottom && x[i] <= top ? grad[i] : 0.0f;
}

}  // namespace

extern const Kernels kernels;
const Kernels kernels = {quantize_block, clip_gradient};

}  // namespace RSQUANT_ISA
}  // namespace rsquant
