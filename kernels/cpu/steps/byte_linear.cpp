// The classifier of an integer network.

#include <algorithm>

#include "steps/steps.h"
#include "pointwise.h"

namespace rsquant {
namespace {

struct ByteLinearStep : Step {
  int input, output, outputs, zero;
  const std::int8_t* weight;
  std::vector<float> factor;
  std::vector<std::int32_t> bias;
  std::vector<std::int16_t> codes;

  void run(Program& p) override {
    const std::uint8_t* in = p.inside(input);
    for (std::size_t i = 0; i < codes.size(); ++i) {
      codes[i] = static_cast<std::int16_t>(in[i] - zero);
    }
    const ByteLinear now = {static_cast<int>(codes.size()),
                            weight,
                            factor.data(),
                            bias.data(),
                            codes.data(),
                            p.floats(output)};
    constexpr int kPart = 64;  // outputs of a task
    p.parallel((outputs + kPart - 1) / kPart, [&](int task, int) {
      const int first = task * kPart;
      p.isa().table->pointwise.byte_linear(now, first, std::min(kPart, outputs - first));
    });
  }
};

}  // namespace

void add_byte_linear(Program& program, int input, int output, std::span<const std::int8_t> weight,
                     std::span<const float> factor, std::span<const std::int32_t> bias, int zero) {
  const Value &in = program.value_at(input), &out = program.value_at(output);
  require(in.kind == Kind::codes && out.kind == Kind::real && in.height * in.width == 1 &&
              out.height * out.width == 1,
          "a linear layer: bytes of one pixel");
  const std::size_t inputs = static_cast<std::size_t>(in.channels);
  const std::size_t outputs = static_cast<std::size_t>(out.channels);
  require(weight.size() == outputs * inputs, "weight: (outputs, inputs)");
  require(factor.size() == outputs && bias.size() == outputs, "factor and bias: per output");
  require(zero >= 0 && zero <= 255, "zero: 0 to 255");
  program.reads(input);
  program.writes(output);
  auto step = std::make_unique<ByteLinearStep>();
  step->input = input, step->output = output, step->outputs = out.channels, step->zero = zero;
  step->weight = weight.data();
  step->factor.assign(factor.begin(), factor.end());
  step->bias.assign(bias.begin(), bias.end());
  step->codes.resize(inputs);
  program.add(std::move(step));
}

}  // namespace rsquant
