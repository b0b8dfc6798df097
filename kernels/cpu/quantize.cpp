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
// Gradients. Backward needs of a value only whether its gradient passes, so a bit is stored in
// place of the value: row r of a chunk is bit r of a 16-bit word per lane, which vectors collect
// without moving anything between lanes. Rectified, the values of a ReLU's input are taken, as
// max(x, 0): a ReLU in front then needs neither its own pass nor its own memory.
//
// Rows of weights are short and few, so their sums are float64 throughout: lane i mod 16, and the
// lanes in order. They differ from those of any other order in the last bits of a float64.
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
typedef std::uint16_t Words __attribute__((vector_size(kWidth * sizeof(std::uint16_t))));
typedef double Doubles __attribute__((vector_size(kWidth * sizeof(double))));

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

// kInside: whether `bits` takes a word per lane. kRectified: see the top of the file.
template <int L, bool kInside, bool kRectified>
inline void quantize_chunk(const float* x, const Levels& levels, const Inside& passes, float* out,
                           std::uint16_t* inside, Totals<L>& totals) {
  // Copies, because the compiler must assume that a store to `out` could change `levels`.
  Floats level[L], threshold[L];
  for (int k = 0; k < L; ++k) level[k] = broadcast(levels.levels[k]);
  for (int k = 1; k < L; ++k) threshold[k] = broadcast(levels.thresholds[k - 1]);
  const Floats bottom = broadcast(passes.bottom), top = broadcast(passes.top);

  for (std::size_t first = 0; first < kLanes; first += kWidth) {
    Floats sums[L] = {};
    Ints above[L] = {};
    Ints bits = {};
    Ints bit = Ints{} + 1;
    for (std::size_t row = first; row < kChunk; row += kLanes) {
      Floats v = load(x + row);
      if constexpr (kRectified) {
        // NaN stays: it is not below 0.
        v = v < Floats{} ? Floats{} : v;
      }
      if constexpr (kInside) {
        const Ints passed = kRectified ? (v > Floats{}) & (v <= top) : (v >= bottom) & (v <= top);
        bits |= passed & bit;
        bit += bit;
      }
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
    if constexpr (kInside) {
      const Words words = __builtin_convertvector(bits, Words);
      std::memcpy(inside + first, &words, sizeof(words));
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

// The level that 0 takes: where the zeros are counted that fill up the last values of a tensor.
inline int level_of_zero(const Levels& levels) {
  int level = 0;
  while (level < levels.count - 1 && 0.0f > levels.thresholds[level]) ++level;
  return level;
}

// Counts from how many values, of so many, exceeded each threshold.
template <int L>
inline void set_counts(std::int64_t n, std::int64_t filled, const Ints (&above)[L],
                       const Levels& levels, LevelStats& stats) {
  std::int64_t reached = n + filled;
  for (int k = 0; k < L; ++k) {
    std::int64_t next = 0;
    if (k + 1 < L) {
      for (std::size_t i = 0; i < kWidth; ++i) next += above[k + 1][i];
    }
    stats.counts[k] = reached - next;
    reached = next;
  }
  stats.counts[level_of_zero(levels)] -= filled;
}

template <int L, bool kInside, bool kRectified>
void quantize_levels(const float* x, std::size_t n, const Levels& levels, const Inside& passes,
                     float* out, std::uint16_t* inside, LevelStats& stats) {
  Totals<L> totals = {};
  const std::size_t whole = n - n % kChunk;
  for (std::size_t i = 0; i < whole; i += kChunk) {
    quantize_chunk<L, kInside, kRectified>(x + i, levels, passes, out + i, inside, totals);
    if constexpr (kInside) inside += kLanes;
  }
  std::int64_t filled = 0;
  if (whole < n) {
    // The last chunk goes through a buffer filled up with zeros. A zero adds nothing to any sum;
    // they are taken out of the counts.
    float buffer[kChunk] = {};
    std::memcpy(buffer, x + whole, (n - whole) * sizeof(float));
    quantize_chunk<L, kInside, kRectified>(buffer, levels, passes, buffer, inside, totals);
    std::memcpy(out + whole, buffer, (n - whole) * sizeof(float));
    filled = static_cast<std::int64_t>(kChunk - (n - whole));
  }
  set_counts<L>(static_cast<std::int64_t>(n), filled, totals.above, levels, stats);
  for (int k = 0; k < L; ++k) {
    const double* sums = totals.sums[k];
    stats.sums[k] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
}

// A step of a row: 16 values, of which `first` is the first lane of a vector.
template <int L>
inline void quantize_row_step(const float* x, const Floats (&level)[L],
                              const Floats (&threshold)[L], float* out, Doubles (&sums)[L],
                              Ints (&above)[L]) {
  const Floats v = load(x);
  Floats q = level[0];
  Floats reached = v;
#pragma GCC unroll 16
  for (int k = 1; k < L; ++k) {
    const Ints mask = v > threshold[k];
    q = mask ? level[k] : q;
    sums[k - 1] += __builtin_convertvector(mask ? Floats{} : reached, Doubles);
    reached = mask ? v : Floats{};
    above[k] -= mask;
  }
  sums[L - 1] += __builtin_convertvector(reached, Doubles);
  store(out, q);
}

template <int L>
void quantize_row_levels(const float* x, std::size_t n, const Levels& levels, float* out,
                         LevelStats& stats) {
  Floats level[L], threshold[L];
  for (int k = 0; k < L; ++k) level[k] = broadcast(levels.levels[k]);
  for (int k = 1; k < L; ++k) threshold[k] = broadcast(levels.thresholds[k - 1]);
  const std::size_t whole = n - n % kLanes;
  float tail[kLanes] = {};
  if (whole < n) std::memcpy(tail, x + whole, (n - whole) * sizeof(float));

  double lanes[L][kLanes];
  Ints total[L] = {};
  for (std::size_t first = 0; first < kLanes; first += kWidth) {
    Doubles sums[L] = {};
    Ints above[L] = {};
    for (std::size_t i = first; i < whole; i += kLanes) {
      quantize_row_step<L>(x + i, level, threshold, out + i, sums, above);
    }
    if (whole < n) {
      quantize_row_step<L>(tail + first, level, threshold, tail + first, sums, above);
    }
    for (int k = 0; k < L; ++k) {
      total[k] += above[k];
      std::memcpy(lanes[k] + first, &sums[k], sizeof(sums[k]));
    }
  }
  if (whole < n) std::memcpy(out + whole, tail, (n - whole) * sizeof(float));
  const std::size_t filled = whole < n ? kLanes - (n - whole) : 0;
  set_counts<L>(static_cast<std::int64_t>(n), static_cast<std::int64_t>(filled), total, levels,
                stats);
  for (int k = 0; k < L; ++k) {
    stats.sums[k] = 0.0;
    for (std::size_t lane = 0; lane < kLanes; ++lane) stats.sums[k] += lanes[k][lane];
  }
}

template <int L>
void quantize_inside(const float* x, std::size_t n, const Levels& levels, const Inside& passes,
                     float* out, std::uint16_t* inside, LevelStats& stats) {
  if (passes.rectified) {
    quantize_levels<L, true, true>(x, n, levels, passes, out, inside, stats);
  } else {
    quantize_levels<L, true, false>(x, n, levels, passes, out, inside, stats);
  }
}

void quantize_block(const float* x, std::size_t n, const Levels& levels, float* out,
                    LevelStats& stats) {
  const Inside none = {};
  switch (levels.count) {
    case 2:
      return quantize_levels<2, false, false>(x, n, levels, none, out, nullptr, stats);
    case 4:
      return quantize_levels<4, false, false>(x, n, levels, none, out, nullptr, stats);
    case 8:
      return quantize_levels<8, false, false>(x, n, levels, none, out, nullptr, stats);
    case 16:
      return quantize_levels<16, false, false>(x, n, levels, none, out, nullptr, stats);
  }
}

void quantize_block_inside(const float* x, std::size_t n, const Levels& levels,
                           const Inside& passes, float* out, std::uint16_t* inside,
                           LevelStats& stats) {
  switch (levels.count) {
    case 2:
      return quantize_inside<2>(x, n, levels, passes, out, inside, stats);
    case 4:
      return quantize_inside<4>(x, n, levels, passes, out, inside, stats);
    case 8:
      return quantize_inside<8>(x, n, levels, passes, out, inside, stats);
    case 16:
      return quantize_inside<16>(x, n, levels, passes, out, inside, stats);
  }
}

void quantize_row(const float* x, std::size_t n, const Levels& levels, float* out,
                  LevelStats& stats) {
  switch (levels.count) {
    case 2:
      return quantize_row_levels<2>(x, n, levels, out, stats);
    case 4:
      return quantize_row_levels<4>(x, n, levels, out, stats);
    case 8:
      return quantize_row_levels<8>(x, n, levels, out, stats);
    case 16:
      return quantize_row_levels<16>(x, n, levels, out, stats);
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

void mask_gradient(const float* grad, const std::uint16_t* inside, std::size_t n, float* out) {
  const std::size_t whole = n - n % kChunk;
  for (std::size_t chunk = 0; chunk < whole; chunk += kChunk, inside += kLanes) {
    for (std::size_t first = 0; first < kLanes; first += kWidth) {
      Words words;
      std::memcpy(&words, inside + first, sizeof(words));
      Ints bits = __builtin_convertvector(words, Ints);
      for (std::size_t row = first; row < kChunk; row += kLanes) {
        const Ints passed = (bits & 1) != 0;
        bits >>= 1;
        store(out + chunk + row, passed ? load(grad + chunk + row) : Floats{});
      }
    }
  }
  for (std::size_t i = whole; i < n; ++i) {
    const std::size_t place = i - whole;
    const bool passed = inside[place % kLanes] >> (place / kLanes) & 1;
    out[i] = passed ? grad[i] : 0.0f;
  }
}

}  // namespace

extern const Kernels kernels;
const Kernels kernels = {quantize_block, quantize_block_inside, quantize_row, clip_gradient,
                         mask_gradient};

}  // namespace RSQUANT_ISA
}  // namespace rsquant
