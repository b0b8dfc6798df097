#include "variants.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>

#include "op.h"

namespace rsquant::packed {
namespace {

constexpr std::string_view kNorm = ".norm";

bool is_norm(const std::string& name) { return name.ends_with(kNorm); }

// The table of a norm at a width.
std::string table_name(double width, const std::string& norm) {
  return width_name(width) + "/" + norm;
}

Tensor with_bytes(const Tensor& from, std::vector<std::int64_t> shape,
                  std::vector<std::uint8_t> bytes) {
  auto own = std::make_shared<const std::vector<std::uint8_t>>(std::move(bytes));
  return {from.type, std::move(shape), own->data(), own};
}

// Some rows of a tensor (A, S, C).
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
  return with_bytes(from, {from.shape[0], kept, from.shape[2]}, std::move(bytes));
}

// The tensors at fewer bits: the first planes and values of each convolution, and their rows of
// each norm.
Tensors tensors_of_bits(const Tensors& tensors, int wbits, const std::vector<std::size_t>& rows,
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
      own = first_of(tensor, {-1, wbits});
    } else if (part == "weight" && tensors.contains(layer + ".basis")) {
      own.shape[0] = std::min<std::int64_t>(own.shape[0], wbits);
    }
    found.emplace(name, std::move(own));
  }
  return found;
}

// All pairs of bits, the costliest first. Throws FieldError.
std::vector<Bits> pairs_of(const Plan& plan) {
  std::vector<Bits> pairs = {{plan.network.wbits, plan.network.abits}};
  for (const BitsSpec& one : plan.bits) pairs.push_back({one.wbits, one.abits});
  if (!are_in_order(pairs)) throw FieldError{"bits: must be different, the costliest first"};
  for (const BitsSpec& one : plan.bits) {
    if (one.quantizers.size() == plan.quantizers.size()) continue;
    throw FieldError{text_of("bits ", one.wbits, "/", one.abits, ": must have ",
                             plan.quantizers.size(), " quantizers, has ", one.quantizers.size())};
  }
  return pairs;
}

std::vector<Variant> variants_of(const Plan& plan) {
  std::vector<Variant> found;
  for (const Bits& bits : pairs_of(plan)) {
    found.push_back({1.0, bits});
    for (const WidthSpec& one : plan.widths) found.push_back({one.width, bits});
  }
  const double size = plan.network.resolutions.front();
  const auto key = [&](const Variant& v) {
    const double cost = size * size * std::pow(v.width, 2.0) * v.bits.weights * v.bits.activations;
    return std::tuple(cost, v.width, v.bits.weights, v.bits.activations);
  };
  std::sort(found.begin(), found.end(),
            [&](const Variant& a, const Variant& b) { return key(a) > key(b); });
  return found;
}

// Makes a network of all channels a narrower one.
//   all  tensors of the file, with the tables of each width
void narrow(Packed& packed, const WidthSpec& spec, const Tensors& all) {
  const std::string width = "width " + width_name(spec.width);
  auto steps = std::make_shared<Steps>();
  std::size_t known = 0;
  for (const auto& step : *packed.steps) {
    steps->push_back(step);
    const auto fewer = spec.channels.find(step->name);
    if (fewer == spec.channels.end()) continue;
    ++known;
    Narrowing to(width + ", step '" + brief(step->name) + "'", fewer->second, packed.tensors);
    if (auto part = step->narrower(to)) steps->back() = std::move(part);
    to.finish();
  }
  packed.steps = std::move(steps);
  if (known < spec.channels.size()) {
    std::set<std::string> names;
    for (const auto& step : *packed.steps) names.insert(step->name);
    for (const auto& [name, _] : spec.channels) {
      if (!names.contains(name)) {
        throw FieldError{width + ": there is no step '" + brief(name) + "'"};
      }
    }
  }
  for (auto& [name, tensor] : packed.tensors) {
    if (!is_norm(name)) continue;
    const auto table = all.find(table_name(spec.width, name));
    if (table == all.end()) {
      throw FieldError{"there is no tensor '" + brief(table_name(spec.width, name)) + "'"};
    }
    tensor = table->second;
  }
}

void copy_bits(const std::uint8_t* from, std::int64_t at, std::uint8_t* to, std::int64_t out,
               std::int64_t count) {
  while (count > 0) {
    const std::int64_t some = std::min({8 - at % 8, 8 - out % 8, count});
    const int bits = from[at / 8] >> at % 8 & ((1 << some) - 1);
    to[out / 8] = static_cast<std::uint8_t>(to[out / 8] | bits << out % 8);
    at += some, out += some, count -= some;
  }
}

}  // namespace

std::string name_of(const Variant& variant) {
  const std::string width = variant.width == 1 ? "" : "x" + width_name(variant.width) + " ";
  return text_of(width, variant.bits.weights, "/", variant.bits.activations);
}

PackedFile::PackedFile(std::string path, Container container)
    : path_(std::move(path)),
      file_(std::move(container.file)),
      tensors_(std::move(container.tensors)) {
  const auto refuse = [&](const std::string& what) {
    throw Failure{RSQ_FILE, path_ + ": " + what};
  };
  const Json* format = container.metadata.find("format");
  const std::string* name = format == nullptr ? nullptr : format->as<std::string>();
  if (name == nullptr || *name != "rsquant-packed") {
    refuse("is not a rsquant-packed file; write one with 'rsquant pack'");
  }
  const Json* version = container.metadata.find("version");
  const std::int64_t* number = version == nullptr ? nullptr : version->as<std::int64_t>();
  if (number != nullptr && *number > kVersion) {
    throw Failure{RSQ_UNSUPPORTED, text_of(path_, ": is rsquant-packed version ", *number,
                                           ", the C library reads versions up to ", kVersion,
                                           ": use the Python runtime, or update rsquant")};
  }
  try {
    plan_ = read_plan(container.metadata);
    variants_ = variants_of(plan_);
    for (const Variant& one : variants_) {
      auto packed = checked(one);
      if (!costliest_) costliest_ = std::move(packed);
    }
  } catch (const FieldError& error) {
    refuse("is not a valid packed network: " + error.text + "; pack the network again");
  } catch (const UnsupportedOperation& operation) {
    throw Failure{RSQ_UNSUPPORTED, path_ + ": unsupported operation " + brief(operation.name) +
                                       ": use the Python runtime"};
  }
}

std::shared_ptr<const Packed> PackedFile::network(std::size_t variant) const {
  return variant == 0 ? costliest_ : checked(variants_[variant]);
}

std::shared_ptr<const Packed> PackedFile::checked(const Variant& variant) const {
  auto packed = std::make_shared<Packed>(made(variant));
  Checker(*packed).check();
  return packed;
}

Packed PackedFile::made(const Variant& variant) const {
  Packed packed = of_bits(variant.bits);
  if (plan_.widths.empty()) return packed;
  const Tensors all = packed.tensors;
  for (const auto& [name, _] : all) {
    if (!is_norm(name)) continue;
    for (const WidthSpec& one : plan_.widths) packed.tensors.erase(table_name(one.width, name));
  }
  for (const WidthSpec& one : plan_.widths) {
    if (one.width == variant.width) narrow(packed, one, all);
  }
  return packed;
}

Packed PackedFile::of_bits(Bits pair) const {
  Packed packed = {plan_.version, plan_.network, plan_.quantizers,
                   plan_.steps,   tensors_,      plan_.cascade};
  if (plan_.bits.empty()) return packed;
  const std::vector<Bits> all = rows_of(plan_.network.resolutions, pairs_of(plan_));
  std::vector<std::size_t> rows;
  for (std::size_t row = 0; row < all.size(); ++row) {
    if (all[row] == pair) rows.push_back(row);
  }
  for (const BitsSpec& one : plan_.bits) {
    if (pair == Bits{one.wbits, one.abits}) packed.quantizers = one.quantizers;
  }
  packed.network.wbits = pair.weights, packed.network.abits = pair.activations;
  packed.tensors = tensors_of_bits(tensors_, pair.weights, rows, all.size());
  return packed;
}

int Narrowing::count(const char* field, int before) {
  asked_[field] = before;
  const auto found = fewer_.find(field);
  if (found == fewer_.end()) return before;
  if (found->second > before) {
    wrong(text_of(field, " must be 1 to ", before, ", got ", found->second));
  }
  return found->second;
}

void Narrowing::finish() const {
  for (const auto& [field, count] : fewer_) {
    if (asked_.contains(field)) continue;
    wrong(text_of(brief(field, 20), " must be a number of its channels, got ", count));
  }
}

Tensor* Narrowing::find(const std::string& name) {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

void Narrowing::wrong(const std::string& what) const { throw FieldError{where_ + ": " + what}; }

std::shared_ptr<const Op> Op::narrower(Narrowing&) const { return nullptr; }

Tensor first_of(const Tensor& from, std::vector<std::int64_t> shape) {
  std::int64_t runs = 1;  // of the last axis
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    const std::int64_t all = from.shape[axis];
    shape[axis] = shape[axis] < 0 ? all : std::min(shape[axis], all);
    if (axis + 1 < shape.size()) runs *= shape[axis];
  }
  const std::size_t item = bytes_of(from.type);
  const std::size_t run = static_cast<std::size_t>(shape.back()) * item;
  std::vector<std::uint8_t> bytes;
  bytes.reserve(static_cast<std::size_t>(runs) * run);
  for (std::int64_t number = 0; number < runs; ++number) {
    // The run's place in `from`, axis by axis from the last.
    std::int64_t rest = number, at = 0, stride = from.shape.back();
    for (std::size_t axis = shape.size() - 1; axis-- > 0;) {
      at += rest % shape[axis] * stride;
      rest /= shape[axis], stride *= from.shape[axis];
    }
    const std::uint8_t* source = from.data + static_cast<std::size_t>(at) * item;
    bytes.insert(bytes.end(), source, source + run);
  }
  return with_bytes(from, std::move(shape), std::move(bytes));
}

Tensor first_bits(const Tensor& planes, std::int64_t rows, std::int64_t pixels, std::int64_t before,
                  std::int64_t after) {
  const std::int64_t bits = planes.shape[0], row = 8 * ((pixels * after + 63) / 64);
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(bits * rows * row), 0);
  for (std::int64_t k = 0; k < bits; ++k) {
    for (std::int64_t o = 0; o < rows; ++o) {
      const std::uint8_t* from = planes.data + (k * planes.shape[1] + o) * planes.shape[2];
      std::uint8_t* to = bytes.data() + (k * rows + o) * row;
      for (std::int64_t p = 0; p < pixels; ++p) {
        copy_bits(from, p * before, to, p * after, after);
      }
    }
  }
  return with_bytes(planes, {bits, rows, row}, std::move(bytes));
}

}  // namespace rsquant::packed
