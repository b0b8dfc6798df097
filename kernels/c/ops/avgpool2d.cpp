// The mean of each window; of windows that cover the map, as many as the result has pixels.

#include <algorithm>

#include "averages.h"
#include "op.h"
#include "output_size.h"

namespace rsquant::packed {
namespace {

constexpr int kMostDivisor = 1 << 24;

struct AvgPool2dOp : Op {
  int input, output;
  Pair kernel, stride;
  Padding padding;
  bool ceil_mode, count_include_pad;
  std::optional<int> divisor;
  std::optional<ByteOutput> bytes;

  void check(Checker& checker) const override {
    if (bytes) {
      bytes->check(checker, input, output);
    } else {
      checker.write(output, checker.read_float(input));
    }
  }

  void build(Builder& builder) const override {
    const Pair map = builder.value(input).pixels();
    const PoolWindows spans = pooled(builder, map, padding, kernel, stride, {1, 1}, ceil_mode);
    Averaging of = {
        input, output, inside(spans.rows, map[0], 1), inside(spans.columns, map[1], 1), {}};
    if (count_include_pad) {
      of.divisors = pixels_of(counted(spans.rows, map[0] + spans.pads[2]),
                              counted(spans.columns, map[1] + spans.pads[3]));
    } else {
      of.divisors = pixels_of(of.rows, of.columns);
    }
    if (divisor) std::fill(of.divisors.begin(), of.divisors.end(), *divisor);
    if (bytes) {
      build_byte_average(builder, *bytes, std::move(of));
    } else {
      build_average(builder, std::move(of));
    }
  }

  // Windows with what they have of the padding, but not of what lies beyond it.
  static SpanTable counted(SpanTable spans, int end) {
    for (std::size_t at = 1; at < spans.size(); at += 2) spans[at] = std::min(spans[at], end);
    return spans;
  }
};

struct AdaptiveAvgPoolOp : Op {
  int input, output;
  OutputSize size;
  Pair least;

  void check(Checker& checker) const override { checker.write(output, checker.read_float(input)); }

  void build(Builder& builder) const override {
    const Pair map = builder.value(input).pixels();
    Averaging of = {input,
                    output,
                    adaptive(map[0], std::max(size[0].value_or(map[0]), least[0])),
                    adaptive(map[1], std::max(size[1].value_or(map[1]), least[1])),
                    {}};
    of.divisors = pixels_of(of.rows, of.columns);
    build_average(builder, std::move(of));
  }
};

}  // namespace

OpPointer read_avgpool2d(Fields& fields) {
  auto op = std::make_unique<AvgPool2dOp>();
  op->kernel = fields.pair("kernel", 1, kMostKernel);
  op->input = fields.integer("input", 1, kLastValue);
  op->output = fields.integer("output", 1, kLastValue);
  op->stride = fields.pair("stride", 1, kMostKernel);
  op->padding = read_pool_padding(fields, op->kernel);
  op->ceil_mode = fields.flag("ceil_mode");
  op->count_include_pad = fields.flag("count_include_pad");
  op->divisor = fields.integer_or_none("divisor", 1, kMostDivisor);
  op->bytes = ByteOutput::read(fields);
  return op;
}

OpPointer read_adaptive_avgpool(Fields& fields) {
  auto op = std::make_unique<AdaptiveAvgPoolOp>();
  op->input = fields.integer("input", 1, kLastValue);
  op->output = fields.integer("output", 1, kLastValue);
  op->size = read_output_size(fields);
  op->least = {1, 1};
  if (fields.has("least")) op->least = fields.pair("least", 1, kMostPooled);
  return op;
}

}  // namespace rsquant::packed
