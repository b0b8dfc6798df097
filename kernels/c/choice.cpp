#include "choice.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace rsquant::packed {
namespace {

// As in rsquant/runtime/cpu/choice.py: what is fastest with other kernels says nothing.
constexpr int kKernelsVersion = 19;
// Of measuring for a setting of a file, all its sizes together, but for the run under way when they
// are over.
constexpr double kTuneSeconds = 4.5;

}  // namespace

const Isa& isa_to_use(const std::string& name) {
  std::string wanted = name;
  const char* variable = std::getenv("RSQUANT_ISA");
  if (wanted.empty() && variable != nullptr) wanted = variable;
  if (wanted == "auto") wanted.clear();
  for (const Isa& isa : instruction_sets()) {
    if (wanted.empty() ? !isa.unusable.empty() : wanted != isa.name) continue;
    if (isa.unusable.empty()) return isa;
    throw Failure{RSQ_ARGUMENT, "isa: " + wanted + ": " + isa.unusable};
  }
  std::string known;
  for (const Isa& isa : instruction_sets()) {
    if (isa.unusable.empty()) known += (known.empty() ? "" : ", ") + std::string(isa.name);
  }
  throw Failure{RSQ_ARGUMENT, "isa: must be one of " + known + ", got '" + brief(wanted) + "'"};
}

KernelChoice::KernelChoice(const Isa& isa, int threads, bool low_memory, std::string kernel)
    : isa_(isa),
      low_memory_(low_memory),
      kernel_(std::move(kernel)),
      machine_(text_of(kKernelsVersion, "|", processor_name(), "|", isa.name, "|", threads)),
      known_(TuningFile::read()) {
  if (kernel_.empty()) return;
  std::string names;
  for (const ConvKernel* known : isa.table->conv) {
    if (known == nullptr) continue;
    if (kernel_ == known->name) return;
    names += (names.empty() ? "" : ", ") + std::string(known->name);
  }
  throw Failure{RSQ_ARGUMENT,
                text_of("kernel: ", isa.name, " has ", names, ", got '", brief(kernel_), "'")};
}

Kernels KernelChoice::of(const Folded& folded) const {
  Kernels found;
  for (const ConvNeed& need : folded.convolutions) found.push_back(of(folded, need));
  return found;
}

void KernelChoice::measure(const std::string& file_setting, std::vector<int> sizes,
                           const std::function<Folded(int size)>& folded,
                           const std::shared_ptr<Workspace>& workspace) {
  if (low_memory_ || !kernel_.empty()) return;
  const std::string done = machine_ + "|file " + file_setting;
  if (known_.contains(done)) return;
  TuningFile::Choices found = {{done, ""}};
  const Budget budget(kTuneSeconds);
  std::sort(sizes.begin(), sizes.end());
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const Folded of_size = folded(sizes[i]);
    const std::vector<Unknown> left = unknown(of_size);
    // A small size needs a fraction of its part, and the rest is left to the large ones.
    const double seconds = budget.left() / static_cast<double>(sizes.size() - i);
    if (left.empty() || seconds <= 0) continue;
    const auto bound = [&](const Kernels& kernels) {
      return bind_program(isa_, workspace, of_size, PreparedWeights(false).of(of_size, kernels, 1));
    };
    found.merge(fastest_kernels(of_size, left, of(of_size), bound, seconds));
  }
  for (const auto& [key, kernel] : found) known_[key] = kernel;
  TuningFile::write(found);
}

std::vector<Unknown> KernelChoice::unknown(const Folded& folded) const {
  std::vector<Unknown> found;
  for (std::size_t i = 0; i < folded.convolutions.size(); ++i) {
    const ConvNeed& need = folded.convolutions[i];
    Unknown one = {i, eligible(need), key(folded, need)};
    const auto known = known_.find(one.key);
    const bool settled = known != known_.end() &&
                         std::any_of(one.eligible.begin(), one.eligible.end(),
                                     [&](const ConvKernel* k) { return known->second == k->name; });
    if (one.eligible.size() > 1 && !settled) found.push_back(std::move(one));
  }
  return found;
}

Kernels KernelChoice::eligible(const ConvNeed& need) const {
  ConvShape form = need.form;
  form.pixel_bytes = 0;
  Kernels found = conv_kernels(isa_, form);
  if (low_memory_) {
    std::erase_if(found, [&](const ConvKernel* k) {
      return !k->low_memory && !has_small_layout(*k, need.form);
    });
  }
  return found;
}

const ConvKernel* KernelChoice::of(const Folded& folded, const ConvNeed& need) const {
  const auto found = eligible(need);
  require(!found.empty(), "no kernel computes this convolution");
  const auto named = [&](const std::string& name) {
    const auto at = std::find_if(found.begin(), found.end(),
                                 [&](const ConvKernel* kernel) { return name == kernel->name; });
    return at != found.end() ? *at : nullptr;
  };
  if (!kernel_.empty()) {
    const ConvKernel* kernel = named(kernel_);
    return kernel != nullptr ? kernel : found[0];
  }
  const auto measured = known_.find(key(folded, need));
  const ConvKernel* known = measured != known_.end() ? named(measured->second) : nullptr;
  if (known == nullptr) return found[0];
  // What was measured had prepared weights. Without them `lookup` is fastest where it leads.
  const bool unpacks = low_memory_ && !has_small_layout(*known, need.form);
  return unpacks && std::strcmp(found[0]->name, "lookup") == 0 ? found[0] : known;
}

std::string KernelChoice::key(const Folded& folded, const ConvNeed& need) const {
  const ValueAt& source = folded.values[static_cast<std::size_t>(need.input)];
  const ConvShape& s = need.form;
  std::string key = machine_;
  char before = '|';
  for (const int n :
       {s.groups, s.in_channels, s.out_channels, s.kernel_h, s.kernel_w, s.stride_h, s.stride_w,
        s.pad_h, s.pad_w, s.dilation_h, s.dilation_w, s.input_limit, s.weight_limit, int{s.real},
        s.weight_bits, s.input_bits, source.height, source.width}) {
    key += before + std::to_string(n);
    before = '-';
  }
  return key;
}

}  // namespace rsquant::packed
