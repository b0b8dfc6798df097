// Product and sum of two float values, and an epilogue of it.

#include "steps/steps.h"

namespace rsquant {
namespace {

struct BinaryStep : Step {
  BinaryStep(int one, int other, bool multiply, const ConvShape& shape, Tables tables)
      : one(one), other(other), multiply(multiply), shape(shape), tables(std::move(tables)) {}
  int one, other;
  bool multiply;
  ConvShape shape;
  Tables tables;

  std::size_t thread_scratch(const Program&) const override {
    return static_cast<std::size_t>(shape.out_w) * shape.out_channels * sizeof(float);
  }

  // A side of one serves all pixels or channels.
  Operand operand(const Program& p, int id, int row) const {
    const Value& v = p.value_at(id);
    const std::int64_t wide = static_cast<std::int64_t>(v.width) * v.channels;
    return {p.floats(id) + (v.height == shape.out_h ? row * wide : 0),
            v.width == shape.out_w ? v.channels : 0, v.channels == shape.out_channels ? 1 : 0};
  }

  void run(Program& p) override {
    const Epilogue epilogue = tables.bind(p);
    const IsaTable& isa = *p.isa().table;
    const auto function = multiply ? isa.elementwise.multiply : isa.elementwise.add;
    p.parallel(shape.out_h, [&](int row, int thread) {
      function(operand(p, one, row), operand(p, other, row), shape.out_w, shape.out_channels,
               reinterpret_cast<float*>(p.scratch(thread)));
      isa.pointwise.map(epilogue, shape, p.scratch(thread), sizeof(float),
                        shape.out_channels * static_cast<int>(sizeof(float)), row);
    });
  }
};

}  // namespace

void add_binary(Program& program, Pair inputs, bool multiply, Tables tables) {
  const Value& out = tables.output(program);
  const Value &a = program.value_at(inputs[0]), &b = program.value_at(inputs[1]);
  const auto fits = [](int one, int other, int result) {
    return (one == result && (other == result || other == 1)) || (one == 1 && other == result);
  };
  require(a.kind == Kind::real && b.kind == Kind::real, "two float values");
  require(fits(a.channels, b.channels, out.channels) && fits(a.height, b.height, out.height) &&
              fits(a.width, b.width, out.width),
          "two values: each side is the result's or 1");
  ConvShape shape = {};
  shape.out_channels = out.channels;
  shape.out_h = out.height;
  shape.out_w = out.width;
  program.reads(inputs[0]);
  program.reads(inputs[1]);
  tables.declare(program);
  program.add(
      std::make_unique<BinaryStep>(inputs[0], inputs[1], multiply, shape, std::move(tables)));
}

}  // namespace rsquant
