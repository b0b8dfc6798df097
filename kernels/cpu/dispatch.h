// Instruction sets as the bindings see them: which there are, and whole-tensor operations on one.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "table.h"

namespace rsquant {

struct Isa {
  const char* name;
  const IsaTable* table;  // null where not compiled in
  std::string unusable;   // empty, or why this machine cannot use it
};

// All instruction sets, best first.
const std::vector<Isa>& instruction_sets();

// All split a large tensor over at most `threads` threads; results do not depend on how many.
void quantize(const Kernels& kernels, const float* x, std::size_t n, const Levels& levels,
              float* out, int threads, LevelStats& stats);
// `inside`: inside_words(n) words, of values whose gradient passes.
void quantize_inside(const Kernels& kernels, const float* x, std::size_t n, const Levels& levels,
                     const Inside& passes, float* out, std::uint16_t* inside, int threads,
                     LevelStats& stats);
// Rows of n weights, each with `count` levels, thresholds (one fewer), counts and sums of its own.
struct Rows {
  std::size_t rows, n;
  int count;
  const float* x;
  const float* levels;
  const float* thresholds;
  float* out;
  std::int64_t* counts;
  double* sums;
};
void quantize_rows(const Kernels& kernels, const Rows& of, int threads);
void mask_gradient(const Kernels& kernels, const float* grad, const std::uint16_t* inside,
                   std::size_t n, float* out, int threads);
void clip_gradient(const Kernels& kernels, const float* grad, const float* x, std::size_t n,
                   float bottom, float top, float* out, int threads);

}  // namespace rsquant
