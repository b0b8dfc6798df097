#include "session.h"

#include <algorithm>
#include <cstdio>

namespace rsquant::packed {

Setting::Setting(const std::string& path, std::shared_ptr<const Packed> packed, const Isa& isa,
                 const Options& options, std::shared_ptr<Workspace> workspace)
    : path_(path),
      packed_(std::move(packed)),
      isa_(isa),
      options_(options),
      workspace_(std::move(workspace)),
      choice_(isa, options.threads, options.low_memory, options.kernel),
      weights_(options.low_memory) {}

std::shared_ptr<BoundSize> Setting::at(int height, int width) {
  const Size size = {height, width};
  const auto& packed = packed_->network.resolutions;
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
  const auto& sizes = packed_->network.resolutions;
  if (!options_.interpolate &&
      (height != width || std::find(sizes.begin(), sizes.end(), height) == sizes.end())) {
    throw Failure{RSQ_SIZE, text_of(path_, ": ", height, "x", width,
                                    " is not packed; open it with interpolate=1 to blend its "
                                    "neighbours")};
  }
  try {
    return Builder(*packed_, height, width).fold();
  } catch (const FieldError& error) {
    throw Failure{RSQ_FILE, path_ + ": is not a valid packed network: " + error.text +
                                "; pack the network again"};
  }
}

std::shared_ptr<BoundSize> Setting::bind(int height, int width) {
  const Folded of = folded(height, width);
  const Choices choices = weights_.of(of, choice_.of(of), options_.threads);
  return bind_program(isa_, workspace_, of, choices);
}

void Setting::tune(const std::string& file_setting) {
  choice_.measure(
      file_setting, packed_->network.resolutions, [&](int size) { return folded(size, size); },
      workspace_);
}

Session::Session(const std::string& path, Container container, Options options)
    : Session(path, container.checksum, PackedFile(path, std::move(container)),
              std::move(options)) {}

Session::Session(const std::string& path, std::uint32_t checksum, PackedFile file, Options options)
    : path_(path),
      options_(std::move(options)),
      isa_(isa_to_use(options_.isa)),
      checksum_(checksum),
      file_(std::move(file)),
      workspace_(std::make_shared<Workspace>(options_.threads, options_.low_memory)),
      settings_(file_.variants().size()) {
  const int largest = network().resolutions.front();
  prepare(largest, largest);
}

Setting& Session::setting(std::size_t number) {
  auto& found = settings_[number];
  if (found) return *found;
  auto made = std::make_unique<Setting>(path_, file_.network(number), isa_, options_, workspace_);
  if (options_.tune) {
    char checksum[9];
    std::snprintf(checksum, sizeof checksum, "%08x", checksum_);
    made->tune(text_of(checksum, " ", name_of(settings()[number])));
  }
  found = std::move(made);
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

void Session::run_maps(const std::uint8_t* images, int count, int height, int width,
                       const WithMap& with) {
  const auto bound = at(height, width);
  const Pair map = bound->map();
  std::vector<float> logits(static_cast<std::size_t>(network().num_classes) * map[0] * map[1]);
  for (int i = 0; i < count; ++i) {
    bound->program.run(images, 1, bound->result, logits.data(), nullptr);
    with(logits.data(), map);
    images += 3 * static_cast<std::size_t>(height) * width;
  }
}

Pair Session::map_size(int height, int width) { return at(height, width)->map(); }

void Session::prepare(int height, int width) { at(height, width); }

void Session::use(std::size_t number) {
  std::lock_guard<std::mutex> lock(mutex_);
  used_ = number;
}

}  // namespace rsquant::packed
