// Maps put together along their channels.

#include <cstring>

#include "steps/steps.h"

namespace rsquant {
namespace {

struct ConcatStep : Step {
  ConcatStep(std::vector<int> inputs, int output) : inputs(std::move(inputs)), output(output) {}
  std::vector<int> inputs;
  int output;

  void run(Program& p) override {
    const Value& out = p.value_at(output);
    p.parallel(out.height, [&](int row, int) {
      const std::int64_t first = static_cast<std::int64_t>(row) * out.width;
      float* to = p.floats(output) + first * out.channels;
      for (const int input : inputs) {
        const int channels = p.value_at(input).channels;
        const float* from = p.floats(input) + first * channels;
        for (int x = 0; x < out.width; ++x) {
          std::memcpy(to + static_cast<std::int64_t>(x) * out.channels,
                      from + static_cast<std::int64_t>(x) * channels,
                      static_cast<std::size_t>(channels) * sizeof(float));
        }
        to += channels;
      }
    });
  }
};

}  // namespace

void add_concat(Program& program, std::vector<int> inputs, int output) {
  const Value& out = program.value_at(output);
  std::int64_t channels = 0;
  for (const int input : inputs) {
    const Value& in = program.value_at(input);
    require(in.kind == Kind::real && in.height == out.height && in.width == out.width,
            "a concatenation: float values of one size");
    channels += in.channels;
    program.reads(input);
  }
  require(out.kind == Kind::real && channels == out.channels, "channels of a concatenation");
  program.writes(output);
  program.add(std::make_unique<ConcatStep>(std::move(inputs), output));
}

}  // namespace rsquant
