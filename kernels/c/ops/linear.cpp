// The classifier, the last operation: of float values, or of bytes or codes by integer arithmetic.

#include <algorithm>
#include <cmath>

#include "builder.h"
#include "op.h"
#include "variants.h"

namespace rsquant::packed {
namespace {

// Largest rounded input: so that the sum of C products fits 32 bits.
int linear_limit(int inputs) {
  return static_cast<int>(std::min<std::int64_t>(32767, 0x7FFFFFFF / (std::int64_t{127} * inputs)));
}

struct LinearOp : Op {
  int input, output, in_features, out_features;

  bool is_linear() const override { return true; }

  void check(Checker& checker) const override {
    const ValueSpec source = checker.read_map(input, true);
    const bool real = source.what == What::real;
    if (!real) checker.integers();
    if (source.channels != in_features) {
      checker.wrong(text_of("reads ", source.channels, " channels, in_features=", in_features));
    }
    const int classes = checker.packed.network.num_classes;
    if (out_features != classes) {
      checker.wrong(text_of("gives ", out_features, " logits for ", classes, " classes"));
    }
    const std::string tensor = name + ".weight";
    const auto weight =
        checker.tensor(tensor, Type::i8, {out_features, in_features}).numbers<std::int8_t>();
    const int limit = real ? kMostLevel : kWeightLimit;
    if (std::any_of(weight.begin(), weight.end(), [&](int w) { return std::abs(w) > limit; })) {
      checker.wrong(text_of("'", brief(tensor), "' has values beyond ", limit, " in size"));
    }
    checker.scales(name, out_features, true);
    checker.write(output, {What::real, out_features});
  }

  std::shared_ptr<const Op> narrower(Narrowing& to) const override {
    auto part = std::make_shared<LinearOp>(*this);
    part->in_features = to.count("in_features", in_features);
    Tensor& weight = *to.find(name + ".weight");
    weight = first_of(weight, {-1, part->in_features});
    return part;
  }

  void build(Builder& builder) const override {
    const ValueAt source = builder.value(input);
    if (source.height != 1 || source.width != 1) {
      builder.invalid(
          text_of("reads a map of ", source.height, "x", source.width, " pixels, not 1"));
    }
    const auto weight = builder.tensor(name + ".weight").numbers<std::int8_t>();
    const auto scale = builder.tensor(name + ".scale").numbers<float>();
    const auto bias = builder.tensor(name + ".bias").numbers<float>();
    if (source.what == What::real) {
      // |acc| m / limit <= C 127 m, and half a unit of rounding in each product.
      const double reach = 2 * in_features * kMostLevel * builder.bound(input);
      builder.finite(reach);
      const auto largest = [](std::span<const float> of) {
        float most = 0.0f;
        for (const float v : of) most = std::max(most, std::abs(v));
        return static_cast<double>(most);
      };
      builder.finite(reach * largest(scale) + largest(bias));
      builder.write({1, 1}, reach, reach);
      builder.add([input = input, output = output, limit = linear_limit(in_features), weight, scale,
                   bias](Program& program, const Choices&) {
        add_linear(program, input, output, limit, weight, scale, bias);
      });
      return;
    }
    const Builder::Unit unit = builder.unit(input);
    Affine affine = {{}, {bias.begin(), bias.end()}};
    for (const float s : scale) affine.scale.push_back(static_cast<double>(s) * unit.scale);
    // No sum is larger than 65,536 products of 255 and 64, which is below 2^30.
    builder.exact_floats(affine, 1.0, kBiasLimit);
    const Scaled scaled = multiplier_and_bias(affine.scale, affine.shift);
    builder.write({1, 1});
    builder.add([input = input, output = output, weight, scaled, zero = unit.zero](Program& program,
                                                                                   const Choices&) {
      add_byte_linear(program, input, output, weight, scaled.factor, scaled.bias, zero);
    });
  }
};

}  // namespace

OpPointer read_linear(Fields& fields) {
  auto op = std::make_unique<LinearOp>();
  op->input = fields.integer("input", 0, kLastValue);
  op->output = fields.integer("output", 1, kLastValue);
  op->in_features = fields.integer("in_features", 1, kMostChannels);
  op->out_features = fields.integer("out_features", 1, kMostChannels);
  return op;
}

}  // namespace rsquant::packed
