// Which kernel computes each convolution on this CPU: asked for, measured before (by this library
// or by Python, whose file of choices it shares), or the default: rsquant/runtime/cpu/choice.py.
#pragma once

#include <string>
#include <vector>

#include "timing.h"
#include "tuning.h"

namespace rsquant::packed {

class KernelChoice {
 public:
  // kernel: the one to use wherever it can be; empty: the fastest known.
  KernelChoice(const Isa& isa, int threads, bool low_memory, std::string kernel);

  Kernels of(const Folded& folded) const;

  // Times the eligible kernels of convolutions that have no choice yet, at the sizes of a file,
  // once per setting of a file, and keeps the fastest.
  //   file_setting  tells the setting of the file from all others
  //   folded        the network at a size
  void measure(const std::string& file_setting, std::vector<int> sizes,
               const std::function<Folded(int size)>& folded,
               const std::shared_ptr<Workspace>& workspace);

 private:
  // The kernels that may compute a convolution, the default first.
  Kernels eligible(const ConvNeed& need) const;
  const ConvKernel* of(const Folded& folded, const ConvNeed& need) const;
  // The convolutions that have no choice.
  std::vector<Unknown> unknown(const Folded& folded) const;
  // What a choice depends on: the machine, and the convolution with its size.
  std::string key(const Folded& folded, const ConvNeed& need) const;

  const Isa& isa_;
  bool low_memory_;
  std::string kernel_;
  std::string machine_;  // processor, kernels and threads
  TuningFile::Choices known_;
};

// The instruction set of a name, or where it is empty, of RSQUANT_ISA, or the best there is. Throws
// Failure where this machine cannot use it.
const Isa& isa_to_use(const std::string& name);

}  // namespace rsquant::packed
