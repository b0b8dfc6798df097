// Some channels of a map, in another order; maps put together along their channels; a map of
// several pixels as one pixel of more channels.

#include <algorithm>

#include "builder.h"
#include "op.h"

namespace rsquant::packed {
namespace {

constexpr std::size_t kMostInputs = 256;

struct ChannelsOp : Op {
  int input, output, first, count, groups;

  void check(Checker& checker) const override {
    const ValueSpec source = checker.read_float(input);
    if (first + count > source.channels) {
      checker.wrong(
          text_of("takes channels ", first, " to ", first + count, " of ", source.channels));
    }
    checker.write(output, {What::real, count});
  }

  void build(Builder& builder) const override {
    builder.write(builder.value(input).pixels(), builder.bound(input), builder.range(input));
    std::vector<std::int32_t> index;
    for (int i = 0; i < count; ++i) {
      index.push_back(first + i % groups * (count / groups) + i / groups);
    }
    builder.add(
        [input = input, output = output, index = std::move(index)](
            Program& program, const Choices&) { add_channels(program, input, output, index); });
  }
};

struct ConcatOp : Op {
  std::vector<int> inputs;
  int output;

  void check(Checker& checker) const override {
    std::int64_t channels = 0;
    for (const int input : inputs) channels += checker.read_float(input).channels;
    if (channels > kMostChannels) {
      checker.wrong(
          text_of("gives ", channels, " channels, at most ", kMostChannels, " are known"));
    }
    checker.write(output, {What::real, static_cast<int>(channels)});
  }

  void build(Builder& builder) const override {
    const Pair pixels = builder.value(inputs[0]).pixels();
    double bound = 0.0, range = 0.0;
    for (const int input : inputs) {
      const ValueAt& source = builder.value(input);
      if (source.pixels() != pixels) {
        builder.invalid(text_of("puts maps of ", pixels[0], "x", pixels[1], " and ", source.height,
                                "x", source.width, " pixels together"));
      }
      bound = std::max(bound, builder.bound(input));
      range = std::max(range, builder.range(input));
    }
    builder.write(pixels, bound, range);
    builder.add([inputs = inputs, output = output](Program& program, const Choices&) {
      add_concat(program, inputs, output);
    });
  }
};

struct FlattenOp : Op {
  int input, output;
  Pair pixels;

  void check(Checker& checker) const override {
    const std::int64_t channels =
        std::int64_t{checker.read_float(input).channels} * pixels[0] * pixels[1];
    if (channels > kMostChannels) {
      checker.wrong(
          text_of("gives ", channels, " channels, at most ", kMostChannels, " are known"));
    }
    checker.write(output, {What::real, static_cast<int>(channels)});
  }

  void build(Builder& builder) const override {
    const ValueAt& source = builder.value(input);
    if (source.pixels() != pixels) {
      builder.wrong_size(text_of("flattens maps of ", pixels[0], "x", pixels[1],
                                 " pixels, and they give one of ", source.height, "x",
                                 source.width));
    }
    builder.write({1, 1}, builder.bound(input), builder.range(input));
    builder.add([input = input, output = output](Program& program, const Choices&) {
      add_flatten(program, input, output);
    });
  }
};

}  // namespace

OpPointer read_channels(Fields& fields) {
  auto op = std::make_unique<ChannelsOp>();
  op->input = fields.integer("input", 1, kLastValue);
  op->output = fields.integer("output", 1, kLastValue);
  op->first = fields.integer("first", 0, kMostChannels - 1);
  op->count = fields.integer("count", 1, kMostChannels);
  op->groups = fields.integer("groups", 1, kMostChannels);
  if (op->count % op->groups != 0) {
    throw FieldError{text_of(fields.where, ": groups must divide the channels, got groups=",
                             op->groups, ", count=", op->count)};
  }
  return op;
}

OpPointer read_concat(Fields& fields) {
  auto op = std::make_unique<ConcatOp>();
  op->inputs = fields.integers("inputs", 1, kLastValue, 1, kMostInputs);
  op->output = fields.integer("output", 1, kLastValue);
  return op;
}

OpPointer read_flatten(Fields& fields) {
  auto op = std::make_unique<FlattenOp>();
  op->input = fields.integer("input", 1, kLastValue);
  op->output = fields.integer("output", 1, kLastValue);
  op->pixels = fields.pair("pixels", 1, kMostChannels);
  return op;
}

}  // namespace rsquant::packed
