// Where the values of a program are in one block of memory: rsquant/runtime/memory.py.
#pragma once

#include <cstddef>
#include <vector>

#include "program.h"

namespace rsquant::packed {

struct MemoryPlan {
  std::vector<std::size_t> offsets;  // of each value, in bytes
  std::size_t total;
};

// Of a program with all its steps; `result` is needed after the last one.
MemoryPlan memory_plan(Program& program, int result);

}  // namespace rsquant::packed
