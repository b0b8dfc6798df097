#include "checker.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "fold.h"
#include "op.h"

namespace rsquant::packed {
namespace {

// Over all steps: tables grow with it, and it does not need a large file.
constexpr std::int64_t kMostTotalChannels = 1 << 20;

}  // namespace

bool Packed::gives_maps() const { return !steps->back()->is_linear(); }

const char* name_of(What what) {
  static const char* const kNames[] = {"image", "codes", "bytes", "float"};
  return kNames[static_cast<int>(what)];
}

void Checker::check() {
  packed.values = {{What::image, kImageChannels}};
  std::int64_t total = 0;
  std::set<std::string> names;
  for (std::size_t index = 0; index < packed.steps->size(); ++index) {
    const Op& step = *(*packed.steps)[index];
    where_ = text_of("step ", index, " (", brief(step.name), ")");
    if (step.is_linear() && index + 1 != packed.steps->size()) {
      wrong("a linear step must be the last step");
    }
    if (!names.insert(step.name).second) wrong("two steps have this name");
    since(step.since, text_of("'", step.kind, "' exists"));
    step.check(*this);
    total += packed.values.back().channels;
    if (total > kMostTotalChannels) {
      wrong(text_of("more than ", kMostTotalChannels, " channels in all"));
    }
  }
  check_result();
  for (const auto& [name, _] : packed.tensors) {
    if (!used_.contains(name)) {
      throw FieldError{"tensor '" + brief(name) + "' belongs to no step"};
    }
  }
}

void Checker::check_result() const {
  if (!packed.gives_maps()) return;
  if (packed.version < kMaps) {
    wrong(text_of("the last step must be a linear one before version ", kMaps,
                  " of the format, and the file has version ", packed.version));
  }
  if (packed.cascade) {
    throw FieldError{"cascade: is of logits of whole images, but these are maps"};
  }
  const ValueSpec& result = packed.values.back();
  const int classes = packed.network.num_classes;
  if (result.what != What::real || result.channels != classes) {
    wrong(text_of("the last value must be a float one of ", classes, " channels, the classes, is ",
                  name_of(result.what), " of ", result.channels));
  }
}

const ValueSpec& Checker::read(int value) const {
  if (static_cast<std::size_t>(value) >= packed.values.size()) {
    wrong(text_of("reads value ", value, " before it is written"));
  }
  return packed.values[static_cast<std::size_t>(value)];
}

const ValueSpec& Checker::read_map(int value, bool bytes_too) const {
  const ValueSpec& source = read(value);
  if (source.what == What::image) wrong("only a convolution can read the image");
  if (source.what == What::bytes && !bytes_too) {
    wrong(text_of("needs codes or a float value, ", value, " is bytes"));
  }
  return source;
}

const ValueSpec& Checker::read_float(int value) const {
  const ValueSpec& source = read_map(value, true);
  if (source.what != What::real) {
    wrong(text_of("needs a float value, ", value, " is ", name_of(source.what)));
  }
  return source;
}

void Checker::write(int value, ValueSpec what) {
  if (static_cast<std::size_t>(value) != packed.values.size()) {
    wrong(text_of("writes value ", value, ", the next is ", packed.values.size()));
  }
  packed.values.push_back(std::move(what));
}

void Checker::norm(const std::optional<std::string>& name, int channels) {
  if (!name) return;
  const std::size_t rows = packed.network.resolutions.size();
  const auto table = floats(*name, {4, static_cast<std::int64_t>(rows), channels});
  const auto variance = table.subspan(3 * rows * static_cast<std::size_t>(channels));
  if (std::any_of(variance.begin(), variance.end(), [](float v) { return v < 0; })) {
    wrong("'" + brief(*name) + "' has a negative variance");
  }
}

void Checker::scales(const std::string& name, int channels, bool bias) {
  const auto scale = floats(name + ".scale", {channels});
  if (std::any_of(scale.begin(), scale.end(), [](float s) { return s < 0; })) {
    wrong("'" + brief(name) + ".scale' has negative values");
  }
  if (bias || find(name + ".bias") != nullptr) floats(name + ".bias", {channels});
}

void Checker::byte_scale(const std::string& name) {
  integers();
  const auto scale = floats(name, {static_cast<std::int64_t>(packed.network.resolutions.size())});
  constexpr float kSmallest = std::numeric_limits<float>::min();
  if (std::any_of(scale.begin(), scale.end(), [](float s) { return s < kSmallest; })) {
    wrong("'" + brief(name) + "' has values that are not positive");
  }
}

void Checker::integers() const { since(kIntegers, "integer arithmetic exists"); }

void Checker::since(int version, const std::string& what) const {
  if (packed.version >= version) return;
  wrong(text_of(what, " from version ", version, " of the format on, and the file has version ",
                packed.version));
}

void Checker::exact(std::int64_t largest) const {
  if (largest > kSumLimit) wrong(text_of("has sums of up to ", largest, ", beyond ", kSumLimit));
}

void Checker::padding(const Padding& padding) const {
  if (packed.version >= kAnyPadding || padding.form == Padding::Form::pair) return;
  wrong(text_of("'padding' must be a pair before version ", kAnyPadding,
                " of the format, and the file has version ", packed.version));
}

std::span<const float> Checker::floats(const std::string& name,
                                       const std::vector<std::int64_t>& shape) {
  const auto found = tensor(name, Type::f32, shape).numbers<float>();
  if (!std::all_of(found.begin(), found.end(), [](float v) { return std::isfinite(v); })) {
    wrong("'" + brief(name) + "' has values that are not finite");
  }
  return found;
}

const Tensor& Checker::tensor(const std::string& name, Type type,
                              const std::vector<std::int64_t>& shape) {
  const Tensor* found = find(name);
  if (found == nullptr) wrong("there is no tensor '" + brief(name) + "'");
  bool fits = found->type == type && found->shape.size() == shape.size();
  for (std::size_t i = 0; fits && i < shape.size(); ++i) {
    fits = shape[i] < 0 || shape[i] == found->shape[i];
  }
  if (!fits) {
    std::string sizes;
    for (const std::int64_t size : shape) {
      sizes += (sizes.empty() ? "" : ", ") + (size < 0 ? "any" : std::to_string(size));
    }
    wrong("'" + brief(name) + "' must be " + name_of(type) + " (" + sizes + ")");
  }
  used_.insert(name);
  return *found;
}

const Tensor* Checker::find(const std::string& name) const {
  const auto found = packed.tensors.find(name);
  return found == packed.tensors.end() ? nullptr : &found->second;
}

void Checker::wrong(const std::string& what) const { throw FieldError{where_ + ": " + what}; }

}  // namespace rsquant::packed
