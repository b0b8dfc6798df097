// An elementwise function by table, and an epilogue of it.

#include "steps/steps.h"

namespace rsquant {
namespace {

struct FunctionStep : Step {
  FunctionStep(int input, const ConvShape& shape, Tables tables)
      : input(input), shape(shape), tables(std::move(tables)) {}
  int input;
  ConvShape shape;
  Tables tables;
  float low, step;
  std::vector<float> value, slope, curve;

  std::size_t thread_scratch(const Program&) const override {
    return static_cast<std::size_t>(shape.out_w) * shape.out_channels * sizeof(float);
  }

  void run(Program& p) override {
    const Epilogue epilogue = tables.bind(p);
    const Value& v = p.value_at(input);
    const IsaTable& isa = *p.isa().table;
    const Function f = {low,          step,         1.0f / step, static_cast<int>(slope.size()),
                        value.data(), slope.data(), curve.data()};
    const std::int64_t count = static_cast<std::int64_t>(shape.out_w) * shape.out_channels;
    p.parallel(shape.out_h, [&](int row, int thread) {
      float* y = reinterpret_cast<float*>(p.scratch(thread));
      const std::uint8_t* x = p.inside(input) + row * v.row();
      if (v.kind == Kind::real) {
        isa.elementwise.function(f, reinterpret_cast<const float*>(x), count, y);
      } else {
        isa.elementwise.lookup(value.data(), x, shape.out_w, shape.out_channels, v.pixel_bytes(),
                               y);
      }
      isa.pointwise.map(epilogue, shape, p.scratch(thread), sizeof(float),
                        shape.out_channels * static_cast<int>(sizeof(float)), row);
    });
  }
};

}  // namespace

void add_function(Program& program, int input, const FunctionTable& table, Tables tables) {
  const Value& in = program.value_at(input);
  require(in.kind != Kind::image, "a function reads codes or float values");
  require(table.slope.size() >= 1 && table.slope.size() == table.curve.size(),
          "slope and curve: one per interval");
  require(table.value.size() == (in.kind == Kind::real ? table.slope.size() : 256),
          "value: one per interval, or per byte");
  require(table.step > 0.0f, "step: positive");
  const Value& out = tables.output(program);
  require(out.height == in.height && out.width == in.width && out.channels == in.channels,
          "shape of the output");
  ConvShape shape = {};
  shape.out_channels = in.channels;
  shape.out_h = in.height;
  shape.out_w = in.width;
  program.reads(input);
  tables.declare(program);
  auto step = std::make_unique<FunctionStep>(input, shape, std::move(tables));
  step->low = table.low, step->step = table.step;
  step->value.assign(table.value.begin(), table.value.end());
  step->slope.assign(table.slope.begin(), table.slope.end());
  step->curve.assign(table.curve.begin(), table.curve.end());
  program.add(std::move(step));
}

}  // namespace rsquant
