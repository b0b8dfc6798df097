// Weights of convolutions: the kernels that read them, and their own layouts.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "program.h"

namespace rsquant {

// Throws unless all numbers are in their ranges.
void check_form(const ConvShape& form);

// The kernel of a name; throws if the instruction set has none.
const ConvKernel& kernel_named(const Isa& isa, const std::string& name);

// The kernels that can compute a convolution exactly, the one to use untimed first.
std::vector<const ConvKernel*> conv_kernels(const Isa& isa, const ConvShape& form);

// Weights in a kernel's own layout; the same for all sizes. Those that were made together share a
// block, which large pages of memory fit into.
struct Prepared {
  std::shared_ptr<Buffer> block;
  std::uint8_t* data;
  std::size_t bytes;
  const ConvKernel* kernel;
};

// One convolution's weights and the kernel that they are for. form: with pixel_bytes.
struct Request {
  const ConvKernel* kernel;
  ConvShape form;
  ConvWeights source;
};

// Layouts in the order of the requests. They have their places before they are made, so that
// steps can be bound to them at the same time.
struct Layouts {
  std::vector<Request> requests;
  std::vector<std::shared_ptr<Prepared>> prepared;
};

// Throws unless the kernels can compute their convolutions.
Layouts reserve(std::vector<Request> requests);

// Fills all of them, on some threads.
void prepare(const Layouts& layouts, int threads);

}  // namespace rsquant
