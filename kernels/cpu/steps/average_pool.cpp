// The mean of a whole map.

#include <algorithm>

#include "steps/steps.h"
#include "sampling.h"

namespace rsquant {
namespace {

struct AveragePoolStep : Step {
  int input, output;
  std::vector<float> scale, shift;
  float low, high;

  void run(Program& p) override {
    const Value& v = p.value_at(input);
    const AveragePool now = {v.channels,   v.height * v.width, p.floats(input),
                             scale.data(), shift.data(),       low,
                             high,         p.floats(output)};
    constexpr int kPart = 64;  // channels of a task
    p.parallel((v.channels + kPart - 1) / kPart, [&](int task, int) {
      const int first = task * kPart;
      p.isa().table->sampling.average_pool(now, first, std::min(kPart, v.channels - first));
    });
  }
};

}  // namespace

void add_average_pool(Program& program, int input, int output, std::span<const float> scale,
                      std::span<const float> shift, float low, float high) {
  const Value &in = program.value_at(input), &out = program.value_at(output);
  require(in.kind == Kind::real && out.kind == Kind::real && out.channels == in.channels &&
              out.height == 1 && out.width == 1,
          "an average pooling: float values, one pixel out");
  const std::size_t channels = static_cast<std::size_t>(in.channels);
  require(scale.size() == channels && shift.size() == channels, "scale and shift: per channel");
  program.reads(input);
  program.writes(output);
  auto step = std::make_unique<AveragePoolStep>();
  step->input = input, step->output = output;
  step->scale.assign(scale.begin(), scale.end());
  step->shift.assign(shift.begin(), shift.end());
  step->low = low, step->high = high;
  program.add(std::move(step));
}

}  // namespace rsquant
