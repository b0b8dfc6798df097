#include "builder.h"

#include <algorithm>
#include <cmath>

#include "op.h"

namespace rsquant::packed {
namespace {

// Of all values of one image together.
constexpr std::int64_t kMostElements = std::int64_t{1} << 31;
// Floats stay far from overflow, so that no infinity and no NaN needs handling anywhere.
constexpr double kMostFloat = 1e37;
// What a BatchNorm gives lies, in its standard deviations, within this of its mean, all but surely.
constexpr double kDeviations = 32.0;

}  // namespace

Builder::Builder(const Packed& packed, int height, int width)
    : packed(packed),
      rows(blend(packed.network.resolutions, side_of(height, width))),
      height_(height),
      width_(width) {
  write({height, width});
}

Folded Builder::fold() {
  for (const auto& step : *packed.steps) {
    where_ = step->name;
    step->build(*this);
  }
  return std::move(folded);
}

void Builder::write(Pair pixels, double bound, double expected) {
  const ValueSpec& of = packed.values[folded.values.size()];
  ValueAt value = {of.what, of.channels, pixels[0], pixels[1], of.zero, {}};
  if (of.what == What::image) value.fill = packed.network.zero.value_or(0);
  if (of.quantizer) {
    const Quantizer& q = quantizer(*of.quantizer);
    value.fill = q.zero();
    for (const int basis : q.basis) value.basis.push_back(std::abs(basis));
    std::sort(value.basis.begin(), value.basis.end());
  }
  folded.values.push_back(std::move(value));
  bounds.push_back(bound);
  ranges.push_back(expected);
  elements_ += std::int64_t{of.channels} * pixels[0] * pixels[1];
  if (elements_ > kMostElements) {
    throw Failure{RSQ_SIZE, text_of("images of ", size(),
                                    " pixels are too large for this network: "
                                    "more than ",
                                    kMostElements, " values; use smaller ones")};
  }
}

double Builder::byte_scale(const std::string& name) const {
  const auto scales = tensor(name).numbers<float>();
  const double one = scales[rows.i];
  if (rows.weight == 0) return one;
  return one + rows.weight * (scales[rows.j] - one);
}

Builder::Unit Builder::unit(int value) const {
  const ValueSpec& of = spec(value);
  if (of.quantizer) {
    const Quantizer& q = quantizer(*of.quantizer);
    return {q.scale, q.zero()};
  }
  return {byte_scale(of.scale), of.zero};
}

Affine Builder::normed(const std::optional<std::string>& name, double eps, Affine of) const {
  if (!name) return of;
  const Affine norm = affine_of(blended(tensor(*name), rows), eps);
  for (std::size_t c = 0; c < norm.scale.size(); ++c) {
    of.scale[c] = norm.scale[c] * of.scale[c];
    of.shift[c] = norm.scale[c] * of.shift[c] + norm.shift[c];
  }
  return of;
}

double Builder::usual(const std::optional<std::string>& name, Doubles sizes) const {
  if (name) {
    const Doubles table = blended(tensor(*name), rows);
    const std::size_t channels = sizes.size();
    for (std::size_t c = 0; c < channels; ++c) {
      const double gamma = table[c], beta = table[channels + c];
      sizes[c] = std::min(sizes[c], std::abs(beta) + kDeviations * std::abs(gamma));
    }
  }
  return *std::max_element(sizes.begin(), sizes.end());
}

void Builder::finite(double bound) const {
  if (!(bound <= kMostFloat)) invalid("its values can overflow");
}

void Builder::exact_floats(const Affine& of, double step, double largest) const {
  double most = 0.0;
  for (std::size_t c = 0; c < of.scale.size(); ++c) {
    const double size = std::abs(of.scale[c]) * largest + std::abs(of.shift[c]);
    most = std::max(most, size);
  }
  finite(2 * most / std::max(step, kLeastStep));
}

std::string Builder::size() const { return text_of(height_, "x", width_); }

void Builder::invalid(const std::string& what) const {
  throw FieldError{brief(where_) + ": " + what};
}

void Builder::wrong_size(const std::string& what) const {
  throw Failure{RSQ_SIZE, "images of " + size() + " pixels have no size of this network: " +
                              brief(where_) + " " + what + "; use another size"};
}

void Builder::too_small() const {
  throw Failure{RSQ_SIZE, text_of("images of ", size(),
                                  " pixels are too small: nothing is left of the map at ",
                                  brief(where_), "; use ", packed.network.stride, " or more")};
}

PoolWindows pooled(const Builder& builder, Pair map, const Padding& padding, Pair kernel,
                   Pair stride, Pair dilation, bool ceil_mode) {
  PoolWindows found;
  found.pads = padding.at(map, extent_of(kernel, dilation), stride);
  for (std::size_t i = 0; i < 2; ++i) {
    const SpanTable spans = sliding(map[i], found.pads[i], found.pads[2 + i], kernel[i], stride[i],
                                    dilation[i], ceil_mode);
    const SpanTable cut = inside(spans, map[i], dilation[i]);
    if (cut.empty()) builder.too_small();
    for (std::size_t at = 0; at < cut.size(); at += 2) {
      if (cut[at] >= cut[at + 1]) builder.too_small();
    }
    (i == 0 ? found.rows : found.columns) = spans;
  }
  return found;
}

double largest_size(const Doubles& values) {
  double most = 0.0;
  for (const double v : values) most = std::max(most, std::abs(v));
  return most;
}

}  // namespace rsquant::packed
