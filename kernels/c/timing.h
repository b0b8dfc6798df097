// How long the steps of a bound program take, and which kernel is fastest for each convolution:
// rsquant/runtime/cpu/timing.py.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bind.h"

namespace rsquant::packed {

// Some seconds of this thread's processor time, and at most twice as many by the clock.
class Budget {
 public:
  explicit Budget(double seconds);
  double left() const;

 private:
  double processor_, clock_;
};

// A convolution without a choice yet.
struct Unknown {
  std::size_t number;  // of the ConvNeed
  Kernels eligible;    // two or more, the default first
  std::string key;     // the same for convolutions that take the same time
};

// Times eligible kernels of convolutions in their place in the program; key -> the fastest kernel,
// where two or more were timed.
//   kernels  of all convolutions; those that are not unknown keep theirs
//   bound    the program with such kernels
//   seconds  what this may take, but for the run that is under way
std::map<std::string, std::string> fastest_kernels(
    const Folded& folded, const std::vector<Unknown>& unknown, const Kernels& kernels,
    const std::function<std::shared_ptr<BoundSize>(const Kernels&)>& bound, double seconds);

}  // namespace rsquant::packed
