// An elementwise function: sigmoid, SiLU, GELU and others, by table.

#include <algorithm>
#include <cmath>

#include "epilogue.h"
#include "functions.h"
#include "op.h"

namespace rsquant::packed {
namespace {

struct FunctionOp : Op {
  int input;
  const KnownFunction* function;
  double parameter = 0.0;
  Epilogue epilogue;

  void check(Checker& checker) const override {
    epilogue.check(checker, checker.read_map(input).channels);
  }

  void build(Builder& builder) const override {
    const ValueAt source = builder.value(input);
    IntervalTable table = table_of(*function, parameter);
    double bound = 0.0, usual = 0.0;
    if (const std::optional<int> quantizer = builder.spec(input).quantizer) {
      const Quantizer& q = builder.quantizer(*quantizer);
      table.value = of_codes(*function, parameter, q.scale, q.zero());
      for (const float v : table.value) {
        bound = std::max(bound, static_cast<double>(std::abs(v)));
      }
      usual = bound;
    } else {
      bound = table.largest(builder.bound(input));
      usual = table.largest(builder.range(input));
    }
    builder.finite(bound);
    const std::size_t channels = static_cast<std::size_t>(source.channels);
    const EndingPointer ending =
        epilogue.build(builder, {{Doubles(channels, 1.0), Doubles(channels, 0.0)},
                                 Doubles(channels, bound),
                                 Doubles(channels, usual),
                                 source.pixels(),
                                 false});
    builder.add([input = input, table = std::move(table), ending, channels](Program& program,
                                                                            const Choices&) {
      add_function(program, input, {table.low, table.step, table.value, table.slope, table.curve},
                   ending->tables(std::vector<std::int32_t>(channels, 0), kAnySum));
    });
  }
};

}  // namespace

OpPointer read_function(Fields& fields) {
  auto op = std::make_unique<FunctionOp>();
  const std::string name = fields.text("function");
  op->function = function_named(name);
  if (op->function == nullptr) fields.wrong("function", "a known function, not " + brief(name));
  const std::size_t count = op->function->has_parameter ? 1 : 0;
  for (const double parameter : fields.reals("parameters", count, count)) {
    op->parameter = parameter;
    if (parameter < op->function->low || parameter > op->function->high) {
      throw FieldError{text_of(fields.where, ": 'parameters' of ", name, " must be from ",
                               op->function->low, " to ", op->function->high, ", got ", parameter)};
    }
  }
  op->input = fields.integer("input", 1, kLastValue);
  op->epilogue = Epilogue::read(fields);
  return op;
}

}  // namespace rsquant::packed
