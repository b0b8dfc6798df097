// The mean of each window.

#include "ops/binding.h"
#include "sampling.h"

namespace rsquant {
namespace {

struct AverageWindowsStep : Step {
  int input, output;
  std::vector<int> rows, columns;
  std::vector<float> share;

  void run(Program& p) override {
    const Value &in = p.value_at(input), &out = p.value_at(output);
    const AverageWindows now = {in.channels,    in.width,     out.width,       rows.data(),
                                columns.data(), share.data(), p.floats(input), p.floats(output)};
    p.parallel(out.height,
               [&](int row, int) { p.isa().table->sampling.average_windows(now, row); });
  }
};

void average_windows(BoundProgram& bound, int input, int output, Array<const std::int32_t, 2> rows,
                     Array<const std::int32_t, 2> columns, Array<const float, 2> share) {
  Program& program = bound.program;
  const Value &in = program.value_at(input), &out = program.value_at(output);
  require(in.kind == Kind::real && out.kind == Kind::real && in.channels == out.channels,
          "an average: float values of as many channels");
  require(static_cast<int>(share.shape(0)) == out.height &&
              static_cast<int>(share.shape(1)) == out.width,
          "share: one per pixel");
  auto step = std::make_unique<AverageWindowsStep>();
  step->input = input, step->output = output;
  step->rows = checked_spans(rows, out.height, in.height);
  step->columns = checked_spans(columns, out.width, in.width);
  step->share.assign(share.data(), share.data() + share.size());
  program.reads(input);
  program.writes(output);
  program.add(std::move(step));
}

}  // namespace

void bind_average_windows(ProgramClass& program) {
  program.def("average_windows", &average_windows, nb::kw_only(), nb::arg("input"),
              nb::arg("output"), nb::arg("rows"), nb::arg("columns"), nb::arg("share"));
}

}  // namespace rsquant
