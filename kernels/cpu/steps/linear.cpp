// The classifier.

#include <algorithm>

#include "steps/steps.h"
#include "pointwise.h"

namespace rsquant {
namespace {

struct LinearStep : Step {
  int input, output;
  Linear base = {};
  std::vector<float> scale, bias;
  std::vector<std::int16_t> quantized;

  void run(Program& p) override {
    Linear now = base;
    now.scale = scale.data();
    now.bias = bias.data();
    now.quantized = quantized.data();
    now.input = p.floats(input);
    now.output = p.floats(output);
    const float largest = p.isa().table->pointwise.quantize_input(now);
    constexpr int kPart = 64;  // outputs of a task
    p.parallel((now.outputs + kPart - 1) / kPart, [&](int task, int) {
      const int first = task * kPart;
      p.isa().table->pointwise.linear(now, largest, first, std::min(kPart, now.outputs - first));
    });
  }
};

}  // namespace

void add_linear(Program& program, int input, int output, int limit,
                std::span<const std::int8_t> weight, std::span<const float> scale,
                std::span<const float> bias) {
  const Value &in = program.value_at(input), &out = program.value_at(output);
  require(in.kind == Kind::real && out.kind == Kind::real && in.height * in.width == 1 &&
              out.height * out.width == 1,
          "a linear layer: float values of one pixel");
  const std::size_t inputs = static_cast<std::size_t>(in.channels);
  const std::size_t outputs = static_cast<std::size_t>(out.channels);
  require(weight.size() == outputs * inputs, "weight: (outputs, inputs)");
  require(scale.size() == outputs && bias.size() == outputs, "scale and bias: per output");
  require(limit >= 1 && limit <= 32767, "limit: 1 to 32767");
  program.reads(input);
  program.writes(output);
  auto step = std::make_unique<LinearStep>();
  step->input = input, step->output = output;
  step->base.inputs = in.channels;
  step->base.outputs = out.channels;
  step->base.limit = limit;
  step->base.weight = weight.data();
  step->scale.assign(scale.begin(), scale.end());
  step->bias.assign(bias.begin(), bias.end());
  step->quantized.resize(inputs);
  program.add(std::move(step));
}

}  // namespace rsquant
