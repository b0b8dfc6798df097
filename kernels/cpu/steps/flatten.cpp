// A map of several pixels as one pixel of more channels.

#include "steps/steps.h"

namespace rsquant {
namespace {

struct FlattenStep : Step {
  FlattenStep(int input, int output) : input(input), output(output) {}
  int input, output;

  void run(Program& p) override {
    const Value& in = p.value_at(input);
    const std::int64_t pixels = static_cast<std::int64_t>(in.height) * in.width;
    p.parallel(in.channels, [&](int channel, int) {
      float* to = p.floats(output) + channel * pixels;
      const float* from = p.floats(input) + channel;
      for (std::int64_t i = 0; i < pixels; ++i) to[i] = from[i * in.channels];
    });
  }
};

}  // namespace

void add_flatten(Program& program, int input, int output) {
  const Value &in = program.value_at(input), &out = program.value_at(output);
  require(in.kind == Kind::real && out.kind == Kind::real && out.height == 1 && out.width == 1 &&
              out.channels == static_cast<std::int64_t>(in.height) * in.width * in.channels,
          "to flatten: float values, one pixel of all that the input has");
  program.reads(input);
  program.writes(output);
  program.add(std::make_unique<FlattenStep>(input, output));
}

}  // namespace rsquant
