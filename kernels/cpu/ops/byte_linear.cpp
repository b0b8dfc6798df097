// The classifier of an integer network.

#include <algorithm>

#include "ops/binding.h"
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

void byte_linear(BoundProgram& bound, int input, int output, Array<const std::int8_t, 2> weight,
                 Array<const float, 1> factor, Array<const std::int32_t, 1> bias, int zero) {
  Program& program = bound.program;
  const Value &in = program.value_at(input), &out = program.value_at(output);
  require(in.kind == Kind::codes && out.kind == Kind::real && in.height * in.width == 1 &&
              out.height * out.width == 1,
          "a linear layer: bytes of one pixel");
  const std::size_t inputs = static_cast<std::size_t>(in.channels);
  const std::size_t outputs = static_cast<std::size_t>(out.channels);
  require(weight.shape(0) == outputs && weight.shape(1) == inputs, "weight: (outputs, inputs)");
  require(factor.size() == outputs && bias.size() == outputs, "factor and bias: per output");
  require(zero >= 0 && zero <= 255, "zero: 0 to 255");
  program.reads(input);
  program.writes(output);
  auto step = std::make_unique<ByteLinearStep>();
  step->input = input, step->output = output, step->outputs = out.channels, step->zero = zero;
  step->weight = weight.data();
  step->factor.assign(factor.data(), factor.data() + outputs);
  step->bias.assign(bias.data(), bias.data() + outputs);
  step->codes.resize(inputs);
  program.add(std::move(step));
  bound.objects.push_back(nb::cast(weight));
}

}  // namespace

void bind_byte_linear(ProgramClass& program) {
  program.def("byte_linear", &byte_linear, nb::kw_only(), nb::arg("input"), nb::arg("output"),
              nb::arg("weight"), nb::arg("factor"), nb::arg("bias"), nb::arg("zero"));
}

}  // namespace rsquant
