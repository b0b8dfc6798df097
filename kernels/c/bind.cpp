#include "bind.h"

#include "memory_plan.h"

namespace rsquant::packed {

Choices PreparedWeights::of(const Folded& folded, const Kernels& kernels, int threads) {
  Choices found;
  std::vector<Request> requests;
  std::vector<std::pair<std::string, const ConvKernel*>> missing;
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    const ConvNeed& need = folded.convolutions[i];
    found.push_back({kernels[i], nullptr});
    if (low_memory_ && !has_small_layout(*kernels[i], need.form)) continue;
    if (made_.contains({need.name, kernels[i]})) continue;
    missing.emplace_back(need.name, kernels[i]);
    requests.push_back({kernels[i], need.form, need.source});
  }
  if (!requests.empty()) {
    // Together, into one block of memory.
    const Layouts layouts = reserve(std::move(requests));
    prepare(layouts, threads);
    for (std::size_t i = 0; i < missing.size(); ++i) made_[missing[i]] = layouts.prepared[i];
  }
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto made = made_.find({folded.convolutions[i].name, kernels[i]});
    if (made != made_.end()) found[i].prepared = made->second;
  }
  return found;
}

Pair BoundSize::map() const {
  const Value& logits = program.value_at(result);
  return {logits.height, logits.width};
}

std::shared_ptr<BoundSize> bind_program(const Isa& isa, std::shared_ptr<Workspace> workspace,
                                        const Folded& folded, const Choices& choices) {
  auto bound = std::make_shared<BoundSize>(isa, std::move(workspace));
  for (const ValueAt& value : folded.values) {
    const Kind kind = value.what == What::image  ? Kind::image
                      : value.what == What::real ? Kind::real
                                                 : Kind::codes;
    bound->program.value(kind, value.channels, value.height, value.width, value.fill);
  }
  for (const auto& step : folded.steps) step(bound->program, choices);
  bound->result = static_cast<int>(folded.values.size()) - 1;
  const MemoryPlan plan = memory_plan(bound->program, bound->result);
  bound->program.finish(plan.offsets, plan.total);
  return bound;
}

}  // namespace rsquant::packed
