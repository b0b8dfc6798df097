#include "steps/conv_weights.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace rsquant {

void check_form(const ConvShape& s) {
  for (const int n : {s.groups, s.in_channels, s.out_channels, s.kernel_h, s.kernel_w, s.stride_h,
                      s.stride_w, s.dilation_h, s.dilation_w, s.input_limit, s.weight_limit}) {
    require(n >= 1, "form: 1 or more");
  }
  require(s.pad_h >= 0 && s.pad_w >= 0, "form: padding 0 or more");
  require(s.in_channels % s.groups == 0 && s.out_channels % s.groups == 0,
          "form: groups must divide the channels");
  require(s.input_limit <= (s.real ? 32767 : 255) && s.weight_limit <= 32767,
          "form: limits of levels");
  require(!s.real || s.weight_limit <= 127, "form: floats meet weights of a byte");
  require(s.weight_bits >= 0 && s.weight_bits <= 4 && s.input_bits >= 0 && s.input_bits <= 4,
          "form: bits");
  for (int j = 0; j < s.input_bits; ++j) {
    require(s.input_basis[j] >= -127 && s.input_basis[j] <= 127, "form: basis");
  }
}

const ConvKernel& kernel_named(const Isa& isa, const std::string& name) {
  for (const ConvKernel* kernel : isa.table->conv) {
    if (kernel != nullptr && name == kernel->name) return *kernel;
  }
  throw std::invalid_argument("no convolution kernel is called '" + name + "'");
}

std::vector<const ConvKernel*> conv_kernels(const Isa& isa, const ConvShape& form) {
  std::vector<const ConvKernel*> found;
  for (const ConvKernel* kernel : isa.table->conv) {
    if (kernel != nullptr && takes(*kernel, form)) found.push_back(kernel);
  }
  return found;
}

Layouts reserve(std::vector<Request> requests) {
  Layouts layouts = {std::move(requests), {}};
  std::vector<std::size_t> places;
  std::size_t all = 0;
  for (const Request& request : layouts.requests) {
    require(takes(*request.kernel, request.form), "the kernel cannot compute this convolution");
    const std::size_t bytes = request.kernel->weight_bytes(request.form);
    layouts.prepared.push_back(
        std::make_shared<Prepared>(Prepared{nullptr, nullptr, bytes, request.kernel}));
    places.push_back(all);
    all += (bytes + 63) / 64 * 64;
  }
  const auto block = std::make_shared<Buffer>(all);
  for (std::size_t i = 0; i < places.size(); ++i) {
    layouts.prepared[i]->block = block;
    layouts.prepared[i]->data = block->data() + places[i];
  }
  return layouts;
}

void prepare(const Layouts& layouts, int threads) {
  const int count = static_cast<int>(layouts.requests.size());
  Pool pool(std::max(1, std::min(threads, count)));
  pool.run(count, [&](int task, int) {
    const std::size_t i = static_cast<std::size_t>(task);
    const Request& request = layouts.requests[i];
    request.kernel->prepare(request.form, request.source, layouts.prepared[i]->data);
  });
}

}  // namespace rsquant
