#include "session.h"

#include <algorithm>

#include "memory.h"

namespace rsquant::packed {

Setting::Setting(const std::string& path, const Packed& packed, const Isa& isa,
                 const Options& options, std::shared_ptr<Workspace> workspace)
    : path_(path),
      packed_(packed),
      isa_(isa),
      options_(options),
      workspace_(std::move(workspace)),
      choice_(isa, options.threads, options.low_memory, options.kernel) {}

std::shared_ptr<BoundSize> Setting::at(int height, int width) {
  const Size size = {height, width};
  const auto& packed = packed_.network.resolutions;
  const bool stays =
      height == width && std::find(packed.begin(), packed.end(), height) != packed.end();
  if (!stays) recent_.remove(size);
  auto found = bound_.find(size);
  if (found == bound_.end()) found = bound_.emplace(size, bind(height, width)).first;
  const std::shared_ptr<BoundSize> bound = found->second;
  if (!stays) {
    recent_.push_front(size);
    while (recent_.size() > static_cast<std::size_t>(options_.keep_sizes)) {
      bound_.erase(recent_.back());
      recent_.pop_back();
    }
  }
  return bound;
}

Folded Setting::folded(int height, int width) const {
  if (height < 1 || width < 1 || height > kMostSide || width > kMostSide) {
    throw Failure{RSQ_SIZE, text_of("images: sides must be 1 to ", kMostSide, " pixels, got ",
                                    height, "x", width)};
  }
  const auto& sizes = packed_.network.resolutions;
  if (!options_.interpolate &&
      (height != width || std::find(sizes.begin(), sizes.end(), height) == sizes.end())) {
    throw Failure{RSQ_SIZE, text_of(path_, ": ", height, "x", width,
                                    " is not packed; open it with interpolate=1 to blend its "
                                    "neighbours")};
  }
  try {
    return Builder(packed_, height, width).fold();
  } catch (const FieldError& error) {
    throw Failure{RSQ_FILE, path_ + ": is not a valid packed network: " + error.text +
                                "; pack the network again"};
  }
}

Choices Setting::choices(const Folded& folded) {
  Choices found;
  std::vector<Request> requests;
  std::vector<std::pair<std::string, const ConvKernel*>> missing;
  for (const ConvNeed& need : folded.convolutions) {
    const ConvKernel* kernel = choice_.of(folded, need);
    found.push_back({kernel, nullptr});
    if (options_.low_memory || prepared_.contains({need.name, kernel})) continue;
    missing.emplace_back(need.name, kernel);
    requests.push_back({kernel, need.form, need.source});
  }
  if (!requests.empty()) {
    const auto made = rsquant::prepare(requests, options_.threads);
    for (std::size_t i = 0; i < made.size(); ++i) prepared_[missing[i]] = made[i];
  }
  if (!options_.low_memory) {
    for (std::size_t i = 0; i < found.size(); ++i) {
      found[i].prepared = prepared_.at({folded.convolutions[i].name, found[i].kernel});
    }
  }
  return found;
}

std::shared_ptr<BoundSize> Setting::bind(int height, int width) {
  const Folded of = folded(height, width);
  const Choices chosen = choices(of);
  auto bound = std::make_shared<BoundSize>(isa_, workspace_);
  for (const ValueAt& value : of.values) {
    const Kind kind = value.what == What::image  ? Kind::image
                      : value.what == What::real ? Kind::real
                                                 : Kind::codes;
    bound->program.value(kind, value.channels, value.height, value.width, value.fill);
  }
  for (const auto& step : of.steps) step(bound->program, chosen);
  bound->result = static_cast<int>(of.values.size()) - 1;
  const MemoryPlan plan = memory_plan(bound->program, bound->result);
  bound->program.finish(plan.offsets, plan.total);
  return bound;
}

Session::Session(const std::string& path, Container container, Options options)
    : path_(path),
      options_(std::move(options)),
      isa_(isa_to_use(options_.isa)),
      packed_(checked(path, std::move(container))),
      workspace_(std::make_shared<Workspace>(options_.threads)),
      settings_(packed_.size()) {
  const int largest = network().resolutions.front();
  prepare(largest, largest);
}

Setting& Session::setting(std::size_t number) {
  auto& found = settings_[number];
  if (!found) {
    found = std::make_unique<Setting>(path_, packed_[number], isa_, options_, workspace_);
  }
  return *found;
}

std::shared_ptr<BoundSize> Session::at(int height, int width) {
  std::lock_guard<std::mutex> lock(mutex_);
  return setting(used_).at(height, width);
}

void Session::run(const std::uint8_t* images, int count, int height, int width, float* logits) {
  const auto bound = at(height, width);
  bound->program.run(images, count, bound->result, logits, nullptr);
}

void Session::prepare(int height, int width) { at(height, width); }

void Session::use(std::size_t number) {
  std::lock_guard<std::mutex> lock(mutex_);
  used_ = number;
}

}  // namespace rsquant::packed
