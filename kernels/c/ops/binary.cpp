// Product and sum of two float values, one of which may serve all pixels or channels.

#include <algorithm>

#include "epilogue.h"
#include "op.h"

namespace rsquant::packed {
namespace {

struct BinaryOp : Op {
  Pair inputs;
  bool multiply;
  Epilogue epilogue;

  void check(Checker& checker) const override {
    const int one = checker.read_float(inputs[0]).channels;
    const int other = checker.read_float(inputs[1]).channels;
    if (one != other && one != 1 && other != 1) {
      checker.wrong(text_of("reads ", one, " and ", other,
                            " channels, which must be equal, or 1 in one of them"));
    }
    epilogue.check(checker, std::max(one, other));
  }

  void build(Builder& builder) const override {
    const ValueAt one = builder.value(inputs[0]), other = builder.value(inputs[1]);
    const auto fits = [](int a, int b) { return a == b || a == 1 || b == 1; };
    if (!fits(one.height, other.height) || !fits(one.width, other.width)) {
      builder.invalid(text_of(multiply ? "multiplies" : "adds", " maps of ", one.height, "x",
                              one.width, " and ", other.height, "x", other.width, " pixels"));
    }
    const auto size = [&](double a, double b) { return multiply ? a * b : a + b; };
    const double reach = size(builder.bound(inputs[0]), builder.bound(inputs[1]));
    const double usual = size(builder.range(inputs[0]), builder.range(inputs[1]));
    builder.finite(reach);
    const std::size_t channels = static_cast<std::size_t>(std::max(one.channels, other.channels));
    const Pair pixels = {std::max(one.height, other.height), std::max(one.width, other.width)};
    const EndingPointer ending =
        epilogue.build(builder, {{Doubles(channels, 1.0), Doubles(channels, 0.0)},
                                 Doubles(channels, reach),
                                 Doubles(channels, usual),
                                 pixels,
                                 false});
    builder.add(
        [inputs = inputs, multiply = multiply, ending, channels](Program& program, const Choices&) {
          add_binary(program, inputs, multiply,
                     ending->tables(std::vector<std::int32_t>(channels, 0), kAnySum));
        });
  }
};

}  // namespace

OpPointer read_binary(Fields& fields) {
  auto op = std::make_unique<BinaryOp>();
  const std::string function = fields.text("function");
  if (function != "multiply" && function != "add") fields.wrong("function", "multiply or add");
  op->multiply = function == "multiply";
  op->inputs = fields.pair("inputs", 1, kLastValue);
  op->epilogue = Epilogue::read(fields);
  return op;
}

}  // namespace rsquant::packed
