// The mean of each window of bytes.

#include <algorithm>

#include "ops/binding.h"
#include "sampling.h"

namespace rsquant {
namespace {

struct ByteAverageStep : Step {
  int input, output, input_zero, zero;
  std::vector<int> rows, columns;
  std::vector<float> factor;

  void run(Program& p) override {
    const Value &in = p.value_at(input), &out = p.value_at(output);
    p.fill_border(output);
    const ByteAverage now = {input_zero,       zero,           out.width,
                             rows.data(),      columns.data(), factor.data(),
                             p.inside(input),  in.row(),       in.pixel_bytes(),
                             p.inside(output), out.row(),      out.pixel_bytes()};
    const int parts = (in.channels + kAveraged - 1) / kAveraged;
    p.parallel(out.height * parts, [&](int task, int) {
      const int first = task % parts * kAveraged;
      p.isa().table->sampling.byte_average(now, task / parts, first,
                                           std::min(kAveraged, in.channels - first));
    });
  }
};

void byte_average(BoundProgram& bound, int input, int output, Array<const std::int32_t, 2> rows,
                  Array<const std::int32_t, 2> columns, Array<const float, 2> factor,
                  int input_zero, int zero) {
  Program& program = bound.program;
  const Value &in = program.value_at(input), &out = program.value_at(output);
  require(in.kind == Kind::codes && out.kind == Kind::codes && in.channels == out.channels,
          "an average: bytes of as many channels");
  require(static_cast<int>(factor.shape(0)) == out.height &&
              static_cast<int>(factor.shape(1)) == out.width,
          "factor: one per pixel");
  require(zero >= 0 && zero <= 255 && input_zero >= 0 && input_zero <= 255, "zero: 0 to 255");
  auto step = std::make_unique<ByteAverageStep>();
  step->input = input, step->output = output;
  step->input_zero = input_zero, step->zero = zero;
  step->rows = checked_spans(rows, out.height, in.height);
  step->columns = checked_spans(columns, out.width, in.width);
  step->factor.assign(factor.data(), factor.data() + factor.size());
  program.reads(input);
  program.writes(output);
  program.add(std::move(step));
}

}  // namespace

void bind_byte_average(ProgramClass& program) {
  program.def("byte_average", &byte_average, nb::kw_only(), nb::arg("input"), nb::arg("output"),
              nb::arg("rows"), nb::arg("columns"), nb::arg("factor"), nb::arg("input_zero"),
              nb::arg("zero"));
}

}  // namespace rsquant
