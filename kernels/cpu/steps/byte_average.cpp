// The mean of each window of bytes.

#include <algorithm>

#include "steps/steps.h"
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

}  // namespace

void add_byte_average(Program& program, int input, int output, Pairs rows, Pairs columns,
                      std::span<const float> factor, int input_zero, int zero) {
  const Value &in = program.value_at(input), &out = program.value_at(output);
  require(in.kind == Kind::codes && out.kind == Kind::codes && in.channels == out.channels,
          "an average: bytes of as many channels");
  require(factor.size() == static_cast<std::size_t>(out.height) * out.width,
          "factor: one per pixel");
  require(zero >= 0 && zero <= 255 && input_zero >= 0 && input_zero <= 255, "zero: 0 to 255");
  auto step = std::make_unique<ByteAverageStep>();
  step->input = input, step->output = output;
  step->input_zero = input_zero, step->zero = zero;
  step->rows = checked_spans(rows, out.height, in.height);
  step->columns = checked_spans(columns, out.width, in.width);
  step->factor.assign(factor.begin(), factor.end());
  program.reads(input);
  program.writes(output);
  program.add(std::move(step));
}

}  // namespace rsquant
