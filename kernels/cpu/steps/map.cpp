// An elementwise operation: an epilogue with no convolution before it.

#include "steps/steps.h"
#include "pointwise.h"

namespace rsquant {
namespace {

struct MapStep : Step {
  MapStep(int input, const ConvShape& shape, Tables tables)
      : input(input), shape(shape), tables(std::move(tables)) {}
  int input;
  ConvShape shape;
  Tables tables;

  void run(Program& p) override {
    const Epilogue epilogue = tables.bind(p);
    const Value& v = p.value_at(input);
    const int element = v.kind == Kind::real ? 4 : 1;
    p.parallel(shape.out_h, [&](int row, int) {
      p.isa().table->pointwise.map(epilogue, shape, p.inside(input) + row * v.row(), element,
                                   v.pixel_bytes(), row);
    });
  }
};

}  // namespace

void add_map(Program& program, int input, Tables tables) {
  const Value& in = program.value_at(input);
  require(in.kind != Kind::image, "a map reads codes or float values");
  const Value& out = tables.output(program);
  require(out.height == in.height && out.width == in.width && out.channels == in.channels,
          "shape of the output");
  ConvShape shape = {};
  shape.out_channels = in.channels;
  shape.out_h = in.height;
  shape.out_w = in.width;
  program.reads(input);
  tables.declare(program);
  program.add(std::make_unique<MapStep>(input, shape, std::move(tables)));
}

}  // namespace rsquant
