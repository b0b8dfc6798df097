// Some channels of a map, in another order.

#include <cstring>

#include "steps/steps.h"

namespace rsquant {
namespace {

struct ChannelsStep : Step {
  ChannelsStep(int input, int output, std::vector<std::int32_t> index)
      : input(input), output(output), index(std::move(index)) {
    for (std::size_t i = 1; i < this->index.size(); ++i) {
      together = together && this->index[i] == this->index[i - 1] + 1;
    }
  }
  int input, output;
  std::vector<std::int32_t> index;
  bool together = true;  // channels that follow each other

  void run(Program& p) override {
    const Value &in = p.value_at(input), &out = p.value_at(output);
    p.parallel(out.height, [&](int row, int) {
      const std::int64_t first = static_cast<std::int64_t>(row) * out.width;
      const float* from = p.floats(input) + first * in.channels;
      float* to = p.floats(output) + first * out.channels;
      for (int x = 0; x < out.width; ++x, from += in.channels, to += out.channels) {
        if (together) {
          std::memcpy(to, from + index[0], index.size() * sizeof(float));
        } else {
          for (std::size_t i = 0; i < index.size(); ++i) to[i] = from[index[i]];
        }
      }
    });
  }
};

}  // namespace

void add_channels(Program& program, int input, int output, std::span<const std::int32_t> index) {
  const Value &in = program.value_at(input), &out = program.value_at(output);
  require(in.kind == Kind::real && out.kind == Kind::real && in.height == out.height &&
              in.width == out.width,
          "channels: float values of one size");
  require(index.size() == static_cast<std::size_t>(out.channels), "index: one per channel");
  std::vector<std::int32_t> copied(index.begin(), index.end());
  for (const std::int32_t i : copied) require(i >= 0 && i < in.channels, "index: channels");
  program.reads(input);
  program.writes(output);
  program.add(std::make_unique<ChannelsStep>(input, output, std::move(copied)));
}

}  // namespace rsquant
