// The largest value of each window; of windows that cover the map, as many as the result has
// pixels.

#include "builder.h"
#include "op.h"
#include "output_size.h"

namespace rsquant::packed {
namespace {

void build_maximum(Builder& builder, int input, int output, SpanTable rows, SpanTable columns,
                   Pair dilation) {
  const Pair size = {static_cast<int>(rows.size() / 2), static_cast<int>(columns.size() / 2)};
  builder.write(size, builder.bound(input), builder.range(input));
  builder.add([input, output, rows = std::move(rows), columns = std::move(columns), dilation](
                  Program& program, const Choices&) {
    add_max_pool(program, input, output, rows, columns, dilation);
  });
}

struct MaxPoolOp : Op {
  int input, output;
  Pair kernel, stride, dilation = {1, 1};
  Padding padding;
  bool ceil_mode = false;

  void check(Checker& checker) const override {
    const ValueSpec source = checker.read_map(input, true);
    checker.padding(padding);
    const bool plain = dilation == Pair{1, 1} && !ceil_mode;
    if (!plain) checker.since(kAnyPooling, "'dilation' and 'ceil_mode' exist");
    checker.write(output, source);
  }

  void build(Builder& builder) const override {
    const Pair map = builder.value(input).pixels();
    const PoolWindows spans = pooled(builder, map, padding, kernel, stride, dilation, ceil_mode);
    build_maximum(builder, input, output, inside(spans.rows, map[0], dilation[0]),
                  inside(spans.columns, map[1], dilation[1]), dilation);
  }
};

struct AdaptiveMaxPoolOp : Op {
  int input, output;
  OutputSize size;

  void check(Checker& checker) const override { checker.write(output, checker.read_float(input)); }

  void build(Builder& builder) const override {
    const Pair map = builder.value(input).pixels();
    build_maximum(builder, input, output, adaptive(map[0], size[0].value_or(map[0])),
                  adaptive(map[1], size[1].value_or(map[1])), {1, 1});
  }
};

}  // namespace

OpPointer read_maxpool(Fields& fields) {
  auto op = std::make_unique<MaxPoolOp>();
  op->kernel = fields.pair("kernel", 1, kMostKernel);
  if (fields.has("dilation") || fields.has("ceil_mode")) {
    op->dilation = fields.pair("dilation", 1, kMostKernel);
    op->ceil_mode = fields.flag("ceil_mode");
  }
  op->input = fields.integer("input", 0, kLastValue);
  op->output = fields.integer("output", 1, kLastValue);
  op->stride = fields.pair("stride", 1, kMostKernel);
  op->padding = read_pool_padding(fields, extent_of(op->kernel, op->dilation));
  return op;
}

OpPointer read_adaptive_maxpool(Fields& fields) {
  auto op = std::make_unique<AdaptiveMaxPoolOp>();
  op->input = fields.integer("input", 1, kLastValue);
  op->output = fields.integer("output", 1, kLastValue);
  op->size = read_output_size(fields);
  return op;
}

}  // namespace rsquant::packed
