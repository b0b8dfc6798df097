// Some channels of a map, in another order.

#include <cstring>

#include "ops/binding.h"

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

void channels(BoundProgram& bound, int input, int output, Array<const std::int32_t, 1> index) {
  Program& program = bound.program;
  const Value &in = program.value_at(input), &out = program.value_at(output);
  require(in.kind == Kind::real && out.kind == Kind::real && in.height == out.height &&
              in.width == out.width,
          "channels: float values of one size");
  require(static_cast<int>(index.size()) == out.channels, "index: one per channel");
  std::vector<std::int32_t> copied(index.data(), index.data() + index.size());
  for (const std::int32_t i : copied) require(i >= 0 && i < in.channels, "index: channels");
  program.reads(input);
  program.writes(output);
  program.add(std::make_unique<ChannelsStep>(input, output, std::move(copied)));
}

}  // namespace

void bind_channels(ProgramClass& program) {
  program.def("channels", &channels, nb::kw_only(), nb::arg("input"), nb::arg("output"),
              nb::arg("index"));
}

}  // namespace rsquant
