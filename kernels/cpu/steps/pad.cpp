// Pixels and channels of one value around a map.

#include <algorithm>
#include <cstring>

#include "steps/steps.h"

namespace rsquant {
namespace {

struct PadStep : Step {
  int input, output;
  int top, left, channel;  // where the input's first pixel and channel are; below 0: cut off
  float value;

  void run(Program& p) override {
    const Value &in = p.value_at(input), &out = p.value_at(output);
    p.parallel(out.height, [&](int row, int) {
      float* to = p.floats(output) + static_cast<std::int64_t>(row) * out.width * out.channels;
      const int y = row - top;
      const bool outside = y < 0 || y >= in.height;
      if (outside || out.channels != in.channels || out.width != in.width || left != 0) {
        std::fill_n(to, static_cast<std::int64_t>(out.width) * out.channels, value);
      }
      if (outside) return;
      const float* from = p.floats(input) + static_cast<std::int64_t>(y) * in.width * in.channels;
      for (int x = std::max(left, 0); x < std::min(out.width, in.width + left); ++x) {
        std::memcpy(to + static_cast<std::int64_t>(x) * out.channels + channel,
                    from + static_cast<std::int64_t>(x - left) * in.channels,
                    static_cast<std::size_t>(in.channels) * sizeof(float));
      }
    });
  }
};

}  // namespace

void add_pad(Program& program, int input, int output, int top, int left, int channel, float value) {
  const Value &in = program.value_at(input), &out = program.value_at(output);
  require(in.kind == Kind::real && out.kind == Kind::real, "a padding: float values");
  require(channel >= 0 && channel <= out.channels - in.channels, "channels of a padding");
  auto step = std::make_unique<PadStep>();
  step->input = input, step->output = output;
  step->top = top, step->left = left, step->channel = channel;
  step->value = value;
  program.reads(input);
  program.writes(output);
  program.add(std::move(step));
}

}  // namespace rsquant
