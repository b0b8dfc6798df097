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

// Both split a large tensor over at most `threads` threads; results do not depend on how many.
void quantize(const Kernels& kernels, const float* x, std::size_t n, const Levels& levels,
              float* out, int threads, LevelStats& stats);
void clip_gradient(const Kernels& kernels, const float* grad, const float* x, std::size_t n,
                   float bottom, float top, float* out, int threads);

}  // namespace rsquant
