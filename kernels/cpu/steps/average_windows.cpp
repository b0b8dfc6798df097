// The mean of each window.

#include "steps/steps.h"
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

}  // namespace

void add_average_windows(Program& program, int input, int output, Pairs rows, Pairs columns,
                         std::span<const float> share) {
  const Value &in = program.value_at(input), &out = program.value_at(output);
  require(in.kind == Kind::real && out.kind == Kind::real && in.channels == out.channels,
          "an average: float values of as many channels");
  require(share.size() == static_cast<std::size_t>(out.height) * out.width, "share: one per pixel");
  auto step = std::make_unique<AverageWindowsStep>();
  step->input = input, step->output = output;
  step->rows = checked_spans(rows, out.height, in.height);
  step->columns = checked_spans(columns, out.width, in.width);
  step->share.assign(share.begin(), share.end());
  program.reads(input);
  program.writes(output);
  program.add(std::move(step));
}

}  // namespace rsquant
