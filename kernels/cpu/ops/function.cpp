// An elementwise function by table, and an epilogue of it.

#include "ops/binding.h"

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

std::vector<float> copied(const Array<const float, 1>& array) {
  return {array.data(), array.data() + array.size()};
}

void function(BoundProgram& bound, int input, float low, float step, Array<const float, 1> value,
              Array<const float, 1> slope, Array<const float, 1> curve, const GivenTables& given) {
  Program& program = bound.program;
  const Value& in = program.value_at(input);
  require(in.kind != Kind::image, "a function reads codes or float values");
  require(slope.size() >= 1 && slope.size() == curve.size(), "slope and curve: one per interval");
  require(value.size() == (in.kind == Kind::real ? slope.size() : 256),
          "value: one per interval, or per byte");
  require(step > 0.0f, "step: positive");
  Tables tables = given.tables(in.channels, kAnySum);
  const Value& out = tables.output(program);
  require(out.height == in.height && out.width == in.width, "shape of the output");
  ConvShape shape = {};
  shape.out_channels = in.channels;
  shape.out_h = in.height;
  shape.out_w = in.width;
  program.reads(input);
  tables.declare(program);
  auto made = std::make_unique<FunctionStep>(input, shape, std::move(tables));
  made->low = low, made->step = step;
  made->value = copied(value), made->slope = copied(slope), made->curve = copied(curve);
  program.add(std::move(made));
}

}  // namespace

void bind_function(ProgramClass& program) {
  program.def("function", &function, nb::kw_only(), nb::arg("input"), nb::arg("low"),
              nb::arg("step"), nb::arg("value"), nb::arg("slope"), nb::arg("curve"),
              nb::arg("tables"));
}

}  // namespace rsquant
