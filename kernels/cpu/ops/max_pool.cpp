// The largest value of each window.

#include "ops/binding.h"
#include "pointwise.h"

namespace rsquant {
namespace {

struct MaxPoolStep : Step {
  MaxPoolStep(int input, int output, const MaxPool& base)
      : input(input), output(output), base(base) {}
  int input, output;
  MaxPool base;

  void run(Program& p) override {
    MaxPool now = base;
    p.fill_border(output);
    now.input = p.inside(input);
    now.in_row = p.value_at(input).row();
    now.output = p.inside(output);
    now.out_row = p.value_at(output).row();
    p.parallel(now.out_h, [&](int row, int) { p.isa().table->pointwise.max_pool(now, row); });
  }
};

void max_pool(BoundProgram& bound, int input, int output, Pair kernel, Pair stride, Pair padding) {
  Program& program = bound.program;
  const Value &in = program.value_at(input), &out = program.value_at(output);
  require(in.kind == out.kind && in.channels == out.channels, "kind and channels of a pooling");
  for (int i = 0; i < 2; ++i) {
    require(kernel[i] >= 1 && stride[i] >= 1, "kernel and stride of a pooling: 1 or more");
    require(padding[i] >= 0 && padding[i] < kernel[i], "padding of a pooling");
  }
  MaxPool base = {};
  base.channels = in.channels;
  base.kernel_h = kernel[0], base.kernel_w = kernel[1];
  base.stride_h = stride[0], base.stride_w = stride[1];
  base.pad_h = padding[0], base.pad_w = padding[1];
  base.in_h = in.height, base.in_w = in.width;
  base.out_h = out.height, base.out_w = out.width;
  base.element = in.kind == Kind::real ? 4 : 1;
  base.in_pixel = in.pixel_bytes();
  base.out_pixel = out.pixel_bytes();
  require((out.height - 1) * stride[0] - padding[0] < in.height &&
              (out.width - 1) * stride[1] - padding[1] < in.width,
          "a window outside the input");
  program.reads(input);
  program.writes(output);
  program.add(std::make_unique<MaxPoolStep>(input, output, base));
}

}  // namespace

void bind_max_pool(ProgramClass& program) {
  program.def("max_pool", &max_pool, nb::kw_only(), nb::arg("input"), nb::arg("output"),
              nb::arg("kernel"), nb::arg("stride"), nb::arg("padding"));
}

}  // namespace rsquant
