// The mean of a whole map.

#include <algorithm>
#include <cmath>
#include <limits>

#include "averages.h"
#include "epilogue.h"
#include "op.h"

namespace rsquant::packed {
namespace {

struct AvgPoolOp : Op {
  int input, output;
  std::optional<std::string> norm;
  double eps;
  bool relu;
  std::optional<double> clip;
  std::optional<ByteOutput> bytes;

  void check(Checker& checker) const override {
    if (bytes) {
      if (norm || relu || clip) {
        checker.wrong("averages bytes as they are, without norm and relu");
      }
      bytes->check(checker, input, output);
      return;
    }
    const ValueSpec source = checker.read_float(input);
    checker.norm(norm, source.channels);
    checker.write(output, source);
  }

  void build(Builder& builder) const override {
    const ValueAt source = builder.value(input);
    if (bytes) {
      const double pixels = static_cast<double>(std::int64_t{source.height} * source.width);
      build_byte_average(builder, *bytes,
                         {input, output, {0, source.height}, {0, source.width}, {pixels}});
      return;
    }
    const std::size_t channels = static_cast<std::size_t>(source.channels);
    const Affine affine =
        builder.normed(norm, eps, {Doubles(channels, 1.0), Doubles(channels, 0.0)});
    double bound = 0.0;
    Doubles usual(channels);
    for (std::size_t c = 0; c < channels; ++c) {
      const double a = std::abs(affine.scale[c]), b = std::abs(affine.shift[c]);
      bound = std::max(bound, a * builder.bound(input) + b);
      usual[c] = a * builder.range(input) + b;
    }
    builder.finite(bound * source.height * source.width);
    const double expected = builder.usual(norm, std::move(usual));
    const std::optional<double> limit = relu ? clip : std::nullopt;
    builder.write({1, 1}, clipped(bound, limit), clipped(expected, limit));
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    builder.add(
        [input = input, output = output,
         scale = std::vector<float>(affine.scale.begin(), affine.scale.end()),
         shift = std::vector<float>(affine.shift.begin(), affine.shift.end()),
         low = relu ? 0.0f : -kInfinity,
         high = clip ? static_cast<float>(*clip) : kInfinity](Program& program, const Choices&) {
          add_average_pool(program, input, output, scale, shift, low, high);
        });
  }
};

}  // namespace

OpPointer read_avgpool(Fields& fields) {
  auto op = std::make_unique<AvgPoolOp>();
  op->norm = fields.text_or_none("norm");
  op->input = fields.integer("input", 0, kLastValue);
  op->output = fields.integer("output", 1, kLastValue);
  op->eps = read_eps(fields, "eps", op->norm.has_value());
  op->relu = fields.flag("relu");
  op->clip = fields.real_or_none("clip", 0.0);
  op->bytes = ByteOutput::read(fields);
  return op;
}

}  // namespace rsquant::packed
