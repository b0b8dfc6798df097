// A folded network bound to kernels: rsquant/runtime/cpu/bind.py and weights.py.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "builder.h"

namespace rsquant::packed {

using Kernels = std::vector<const ConvKernel*>;  // of each convolution

// Weights in layouts that were made for a network, the same at every size.
class PreparedWeights {
 public:
  explicit PreparedWeights(bool low_memory) : low_memory_(low_memory) {}
  // What each convolution runs with; layouts that are missing are made by so many threads.
  Choices of(const Folded& folded, const Kernels& kernels, int threads);

 private:
  bool low_memory_;  // make only small ones
  std::map<std::pair<std::string, const ConvKernel*>, std::shared_ptr<Prepared>> made_;
};

// A program of one size, ready to run.
struct BoundSize {
  BoundSize(const Isa& isa, std::shared_ptr<Workspace> workspace)
      : program(isa, std::move(workspace)) {}
  // Height and width of the result.
  Pair map() const;

  Program program;
  int result = 0;
};
std::shared_ptr<BoundSize> bind_program(const Isa& isa, std::shared_ptr<Workspace> workspace,
                                        const Folded& folded, const Choices& choices);

}  // namespace rsquant::packed
