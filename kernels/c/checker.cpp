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

// A copy of some rows of a tensor (A, S, C), or of the first columns of one (O, K).
Tensor copy_of(const Tensor& from, std::vector<std::int64_t> shape,
               std::vector<std::uint8_t> bytes) {
  auto own = std::make_shared<const std::vector<std::uint8_t>>(std::move(bytes));
  return {from.type, std::move(shape), own->data(), own};
}

Tensor norm_rows(const std::string& name, const Tensor& from, const std::vector<std::size_t>& rows,
                 std::size_t count) {
  if (from.shape.size() != 3 || from.shape[1] != static_cast<std::int64_t>(count)) {
    throw FieldError{text_of("'", brief(name), "' must have ", count, " rows")};
  }
  const std::size_t row = static_cast<std::size_t>(from.shape[2]) * bytes_of(from.type);
  std::vector<std::uint8_t> bytes;
  for (std::int64_t i = 0; i < from.shape[0]; ++i) {
    for (const std::size_t r : rows) {
      const std::uint8_t* at = from.data + (static_cast<std::size_t>(i) * count + r) * row;
      bytes.insert(bytes.end(), at, at + row);
    }
  }
  const std::int64_t kept = static_cast<std::int64_t>(rows.size());
  return copy_of(from, {from.shape[0], kept, from.shape[2]}, std::move(bytes));
}

Tensor first_columns(const Tensor& from, int columns) {
  const std::size_t item = bytes_of(from.type);
  const std::size_t kept = static_cast<std::size_t>(columns) * item;
  const std::size_t row = static_cast<std::size_t>(from.shape[1]) * item;
  std::vector<std::uint8_t> bytes;
  for (std::int64_t o = 0; o < from.shape[0]; ++o) {
    const std::uint8_t* at = from.data + static_cast<std::size_t>(o) * row;
    bytes.insert(bytes.end(), at, at + kept);
  }
  return copy_of(from, {from.shape[0], columns}, std::move(bytes));
}

// The tensors of a setting with fewer bits: the first planes and values of each convolution, and
// the setting's rows of each norm.
Tensors of_setting(const Tensors& tensors, int wbits, const std::vector<std::size_t>& rows,
                   std::size_t count) {
  Tensors found;
  for (const auto& [name, tensor] : tensors) {
    const std::size_t dot = name.rfind('.');
    const std::string layer = dot == std::string::npos ? "" : name.substr(0, dot);
    const std::string part = name.substr(dot == std::string::npos ? 0 : dot + 1);
    Tensor own = tensor;
    if (part == "norm") {
      own = norm_rows(name, tensor, rows, count);
    } else if (part == "basis") {
      if (tensors.contains(layer + ".offset") || tensor.shape.size() != 2 ||
          tensor.shape[1] < wbits) {
        throw FieldError{
            text_of("'", brief(name), "' must be (O, K), K ", wbits, " or more, without offset")};
      }
      own = first_columns(tensor, wbits);
    } else if (part == "weight" && tensors.contains(layer + ".basis")) {
      own.shape[0] = std::min<std::int64_t>(own.shape[0], wbits);
    }
    found.emplace(name, std::move(own));
  }
  return found;
}

std::vector<Packed> settings_of(Plan plan, Container container) {
  std::vector<Packed> found;
  if (plan.others.empty()) {
    found.push_back({plan.version,
                     plan.network,
                     plan.quantizers,
                     plan.steps,
                     std::move(container.tensors),
                     container.file,
                     {},
                     {},
                     {}});
    return found;
  }
  const std::size_t quantizers = plan.quantizers.size();
  plan.others.insert(plan.others.begin(),
                     {plan.network.wbits, plan.network.abits, plan.quantizers});
  std::vector<Bits> bits;
  for (const BitsSpec& one : plan.others) bits.push_back({one.wbits, one.abits});
  if (!are_in_order(bits)) throw FieldError{"bits: must be different, the costliest first"};
  const std::vector<Bits> all = rows_of(plan.network.resolutions, bits);
  for (const BitsSpec& one : plan.others) {
    if (one.quantizers.size() != quantizers) {
      throw FieldError{text_of("bits ", one.wbits, "/", one.abits, ": must have ", quantizers,
                               " quantizers, has ", one.quantizers.size())};
    }
    std::vector<std::size_t> rows;
    for (std::size_t row = 0; row < all.size(); ++row) {
      if (all[row] == Bits{one.wbits, one.abits}) rows.push_back(row);
    }
    Network network = plan.network;
    network.wbits = one.wbits, network.abits = one.abits;
    found.push_back({plan.version,
                     network,
                     one.quantizers,
                     plan.steps,
                     of_setting(container.tensors, one.wbits, rows, all.size()),
                     container.file,
                     {},
                     {},
                     {}});
  }
  return found;
}

}  // namespace

const char* name_of(What what) {
  static const char* const kNames[] = {"image", "codes", "bytes", "float"};
  return kNames[static_cast<int>(what)];
}

std::vector<Packed> checked(const std::string& path, Container container) {
  const auto refuse = [&](const std::string& what) { throw Failure{RSQ_FILE, path + ": " + what}; };
  const Json* format = container.metadata.find("format");
  const std::string* name = format == nullptr ? nullptr : format->as<std::string>();
  if (name == nullptr || *name != "rsquant-packed") {
    refuse("is not a rsquant-packed file; write one with 'rsquant pack'");
  }
  const Json* version = container.metadata.find("version");
  const std::int64_t* number = version == nullptr ? nullptr : version->as<std::int64_t>();
  if (number != nullptr && *number > kVersion) {
    throw Failure{RSQ_UNSUPPORTED, text_of(path, ": is rsquant-packed version ", *number,
                                           ", the C library reads versions up to ", kVersion,
                                           ": use the Python runtime, or update rsquant")};
  }
  try {
    Plan plan = read_plan(container.metadata);
    std::vector<Packed> found = settings_of(std::move(plan), std::move(container));
    for (Packed& packed : found) Checker(packed).check();
    return found;
  } catch (const FieldError& error) {
    refuse("is not a valid packed network: " + error.text + "; pack the network again");
  } catch (const UnsupportedOperation& operation) {
    throw Failure{RSQ_UNSUPPORTED, path + ": unsupported operation " + brief(operation.name) +
                                       ": use the Python runtime"};
  }
  return {};
}

void Checker::check() {
  packed.values = {{What::image, kImageChannels}};
  std::int64_t total = 0;
  std::set<std::string> names;
  for (std::size_t index = 0; index < packed.steps->size(); ++index) {
    const Op& step = *(*packed.steps)[index];
    where_ = text_of("step ", index, " (", brief(step.name), ")");
    if (step.is_linear() != (index + 1 == packed.steps->size())) {
      wrong("there must be one linear step, the last step");
    }
    if (!names.insert(step.name).second) wrong("two steps have this name");
    if (packed.version < step.since) {
      wrong(text_of("'", step.kind, "' exists from version ", step.since,
                    " of the format on, and the file has version ", packed.version));
    }
    step.check(*this);
    total += packed.values.back().channels;
    if (total > kMostTotalChannels) {
      wrong(text_of("more than ", kMostTotalChannels, " channels in all"));
    }
  }
  for (const auto& [name, _] : packed.tensors) {
    if (!used_.contains(name)) {
      throw FieldError{"tensor '" + brief(name) + "' belongs to no step"};
    }
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

void Checker::integers() const {
  if (packed.version >= kIntegers) return;
  wrong(text_of("integer arithmetic exists from version ", kIntegers,
                " of the format on, and the file has version ", packed.version));
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
