// The largest value of each window.

#include "steps/steps.h"
#include "sampling.h"

namespace rsquant {
namespace {

struct MaxPoolStep : Step {
  int input, output;
  std::vector<int> rows, columns;
  MaxPool base = {};

  std::size_t thread_scratch(const Program&) const override {
    return static_cast<std::size_t>(base.scratch_bytes());
  }

  void run(Program& p) override {
    MaxPool now = base;
    p.fill_border(output);
    now.rows = rows.data();
    now.columns = columns.data();
    now.input = p.inside(input);
    now.in_row = p.value_at(input).row();
    now.output = p.inside(output);
    now.out_row = p.value_at(output).row();
    p.parallel(p.value_at(output).height, [&](int row, int thread) {
      p.isa().table->sampling.max_pool(now, row, p.scratch(thread));
    });
  }
};

}  // namespace

void add_max_pool(Program& program, int input, int output, Pairs rows, Pairs columns,
                  Pair dilation) {
  const Value &in = program.value_at(input), &out = program.value_at(output);
  require(in.kind != Kind::image && in.kind == out.kind && in.channels == out.channels,
          "kind and channels of a pooling");
  require(dilation[0] >= 1 && dilation[1] >= 1, "dilation of a pooling: 1 or more");
  auto step = std::make_unique<MaxPoolStep>();
  step->input = input, step->output = output;
  step->rows = checked_spans(rows, out.height, in.height);
  step->columns = checked_spans(columns, out.width, in.width);
  step->base.channels = in.channels;
  step->base.in_w = in.width, step->base.out_w = out.width;
  step->base.dilation_h = dilation[0], step->base.dilation_w = dilation[1];
  step->base.element = in.kind == Kind::real ? 4 : 1;
  step->base.in_pixel = in.pixel_bytes();
  step->base.out_pixel = out.pixel_bytes();
  program.reads(input);
  program.writes(output);
  program.add(std::move(step));
}

}  // namespace rsquant
