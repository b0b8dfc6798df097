// Pixels and channels of one value around a map; or copies of its own pixels.

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "builder.h"
#include "op.h"

namespace rsquant::packed {
namespace {

struct PadOp : Op {
  int input, output;
  bool by_rule;
  Padding rule;  // where it is one
  Sides sides;   // else; below 0: cut off
  Pair kernel, stride, channels;
  double value;

  void check(Checker& checker) const override {
    const int count = checker.read_float(input).channels + channels[0] + channels[1];
    if (count > kMostChannels) {
      checker.wrong(text_of("gives ", count, " channels, at most ", kMostChannels, " are known"));
    }
    checker.write(output, {What::real, count});
  }

  void build(Builder& builder) const override {
    const Pair map = builder.value(input).pixels();
    const Sides pads = by_rule ? rule.at(map, kernel, stride) : sides;
    const Pair pixels = {map[0] + pads[0] + pads[2], map[1] + pads[1] + pads[3]};
    for (std::size_t i = 0; i < 2; ++i) {
      const int kept = map[i] + std::min(pads[i], 0) + std::min(pads[i + 2], 0);
      if (pixels[i] < 1 || kept < 1) builder.too_small();
    }
    if (std::max(pixels[0], pixels[1]) > kMostSide) {
      builder.invalid(text_of("gives a map of ", pixels[0], "x", pixels[1], " pixels"));
    }
    const double size = std::abs(value);
    builder.finite(size);
    builder.write(pixels, std::max(builder.bound(input), size),
                  std::max(builder.range(input), size));
    builder.add([input = input, output = output, top = pads[0], left = pads[1],
                 channel = channels[0],
                 value = static_cast<float>(value)](Program& program, const Choices&) {
      add_pad(program, input, output, top, left, channel, value);
    });
  }
};

enum class Edge { reflect, replicate, circular };

// The pixel that each place of a padded side is a copy of, twice.
SpanTable copied_from(int side, int before, int after, Edge edge) {
  SpanTable found;
  for (int place = -before; place < side + after; ++place) {
    int pixel = place;
    if (edge == Edge::circular) {
      pixel = (place % side + side) % side;
    } else if (edge == Edge::replicate) {
      pixel = std::clamp(place, 0, side - 1);
    } else {
      const int last = side - 1;
      pixel = last - std::abs(last - std::abs(place));
    }
    found.push_back(pixel);
    found.push_back(pixel);
  }
  return found;
}

struct ExtendOp : Op {
  int input, output;
  Sides padding;
  Edge edge;

  void check(Checker& checker) const override { checker.write(output, checker.read_float(input)); }

  void build(Builder& builder) const override {
    const Pair map = builder.value(input).pixels();
    for (std::size_t i = 0; i < 2; ++i) {
      const int most = std::max(padding[i], padding[i + 2]);
      const int room = edge == Edge::reflect ? map[i] - 1 : map[i];
      if (edge != Edge::replicate && most > room) builder.too_small();
    }
    const Pair pixels = {map[0] + padding[0] + padding[2], map[1] + padding[1] + padding[3]};
    if (std::max(pixels[0], pixels[1]) > kMostSide) {
      builder.invalid(text_of("gives a map of ", pixels[0], "x", pixels[1], " pixels"));
    }
    SpanTable rows = copied_from(map[0], padding[0], padding[2], edge);
    SpanTable columns = copied_from(map[1], padding[1], padding[3], edge);
    builder.write(pixels, builder.bound(input), builder.range(input));
    builder.add([input = input, output = output, rows = std::move(rows),
                 columns = std::move(columns)](Program& program, const Choices&) {
      const std::vector<float> of_rows(rows.size()), of_columns(columns.size());  // do not count
      add_resize(program, input, output, rows, of_rows, columns, of_columns, false);
    });
  }
};

}  // namespace

OpPointer read_pad(Fields& fields) {
  auto op = std::make_unique<PadOp>();
  op->kernel = fields.pair("kernel", 1, kMostKernel);
  op->stride = fields.pair("stride", 1, kMostKernel);
  op->input = fields.integer("input", 1, kLastValue);
  op->output = fields.integer("output", 1, kLastValue);
  const Json& padding = fields.take("padding");
  const std::string* rule = padding.as<std::string>();
  op->by_rule = rule != nullptr;
  if (rule != nullptr) {
    if (*rule != "same" && *rule != "same-lower") fields.wrong("padding", "same or same-lower");
    op->rule = {*rule == "same" ? Padding::Form::same : Padding::Form::same_lower, {}};
  } else {
    const auto given = fields.as_integers("padding", padding, -kMostSide, kMostSide, 4, 4);
    std::copy(given.begin(), given.end(), op->sides.begin());
  }
  op->channels = fields.pair("channels", 0, kMostChannels);
  op->value = fields.real("value");
  return op;
}

OpPointer read_extend(Fields& fields) {
  auto op = std::make_unique<ExtendOp>();
  const std::string mode = fields.text("mode");
  if (mode == "reflect") {
    op->edge = Edge::reflect;
  } else if (mode == "replicate") {
    op->edge = Edge::replicate;
  } else if (mode == "circular") {
    op->edge = Edge::circular;
  } else {
    fields.wrong("mode", "one of reflect, replicate, circular");
  }
  const auto given = fields.integers("padding", 0, kMostSide, 4, 4);
  std::copy(given.begin(), given.end(), op->padding.begin());
  op->input = fields.integer("input", 1, kLastValue);
  op->output = fields.integer("output", 1, kLastValue);
  return op;
}

}  // namespace rsquant::packed
