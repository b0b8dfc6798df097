// An elementwise operation: an epilogue with no convolution before it.

#include "integer_epilogue.h"
#include "op.h"

namespace rsquant::packed {
namespace {

struct MapOp : Op {
  int input;
  AnyEpilogue epilogue;

  void check(Checker& checker) const override {
    const bool integer = std::holds_alternative<IntegerEpilogue>(epilogue);
    const ValueSpec source = checker.read_map(input, integer);
    if (source.what == What::real && integer) {
      checker.wrong(text_of("needs codes or bytes, ", input, " is float"));
    }
    std::visit([&](const auto& e) { e.check(checker, source.channels); }, epilogue);
  }

  void build(Builder& builder) const override {
    const ValueAt source = builder.value(input);
    const std::size_t channels = static_cast<std::size_t>(source.channels);
    std::vector<std::int32_t> correction(channels, 0);
    EndingPointer ending;
    if (const IntegerEpilogue* e = std::get_if<IntegerEpilogue>(&epilogue)) {
      const Builder::Unit unit = builder.unit(input);
      ending = e->build_map(builder, Doubles(channels, unit.scale / kByteWeight), unit.zero,
                            source.pixels());
      correction.assign(channels, kByteWeight * unit.zero);  // the kernels take 64 byte
    } else {
      ending = std::get<Epilogue>(epilogue).build(builder, stored(builder, source));
    }
    builder.add([input = input, ending, correction = std::move(correction)](Program& program,
                                                                            const Choices&) {
      add_map(program, input, ending->tables(correction, kAnySum));
    });
  }

  // What is stored, values themselves or bytes level + zero, as the input of an epilogue.
  Result stored(const Builder& builder, const ValueAt& source) const {
    const std::size_t channels = static_cast<std::size_t>(source.channels);
    const auto all = [&](double value) { return Doubles(channels, value); };
    const std::optional<int> quantizer = builder.spec(input).quantizer;
    if (!quantizer) {
      return {{all(1.0), all(0.0)},
              all(builder.bound(input)),
              all(builder.range(input)),
              source.pixels(),
              false};
    }
    const Quantizer& q = builder.quantizer(*quantizer);
    return {{all(q.scale), all(-q.scale * q.zero())},
            all(q.limit()),
            all(q.limit()),
            source.pixels(),
            false};
  }
};

}  // namespace

OpPointer read_map(Fields& fields) {
  auto op = std::make_unique<MapOp>();
  op->input = fields.integer("input", 0, kLastValue);
  op->epilogue = read_any_epilogue(fields);
  return op;
}

}  // namespace rsquant::packed
