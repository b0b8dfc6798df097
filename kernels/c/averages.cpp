#include "averages.h"

#include <algorithm>

#include "integer_epilogue.h"

namespace rsquant::packed {

std::optional<ByteOutput> ByteOutput::read(Fields& fields) {
  if (!fields.has("scale")) return std::nullopt;
  const std::optional<int> zero = read_zero(fields, "zero");
  if (!zero) fields.wrong("zero", "0 or 128, got null");
  return ByteOutput{fields.text("scale"), *zero};
}

void ByteOutput::check(Checker& checker, int input, int output) const {
  const ValueSpec found = checker.read_map(input, true);
  if (found.what == What::real) {
    checker.wrong(text_of("has a 'scale', as averages of bytes do, and ", input, " is float"));
  }
  checker.byte_scale(scale);
  checker.write(output, {What::bytes, found.channels, std::nullopt, scale, zero});
}

Doubles pixels_of(const SpanTable& rows, const SpanTable& columns) {
  Doubles found;
  found.reserve(rows.size() / 2 * (columns.size() / 2));
  for (std::size_t y = 0; y < rows.size(); y += 2) {
    for (std::size_t x = 0; x < columns.size(); x += 2) {
      found.push_back(
          static_cast<double>(std::int64_t{rows[y + 1] - rows[y]} * (columns[x + 1] - columns[x])));
    }
  }
  return found;
}

void build_average(Builder& builder, Averaging of) {
  const Doubles pixels = pixels_of(of.rows, of.columns);
  const double bound = builder.bound(of.input), expected = builder.range(of.input);
  builder.finite(bound * *std::max_element(pixels.begin(), pixels.end()));
  double most = 0.0;
  std::vector<float> share;
  for (std::size_t i = 0; i < pixels.size(); ++i) {
    most = std::max(most, pixels[i] / of.divisors[i]);
    share.push_back(static_cast<float>(1 / of.divisors[i]));
  }
  const Pair size = {static_cast<int>(of.rows.size() / 2), static_cast<int>(of.columns.size() / 2)};
  builder.write(size, bound * most, expected * most);
  builder.add([of = std::move(of), share = std::move(share)](Program& program, const Choices&) {
    add_average_windows(program, of.input, of.output, of.rows, of.columns, share);
  });
}

void build_byte_average(Builder& builder, const ByteOutput& bytes, Averaging of) {
  const std::int64_t taps = longest(of.rows) * longest(of.columns);
  if (taps * kByteTop > kSumLimit) {
    builder.wrong_size(text_of("averages ", taps, " pixels, too many for exact sums of bytes"));
  }
  const Builder::Unit unit = builder.unit(of.input);
  const double step = builder.byte_scale(bytes.scale);
  builder.exact_floats({{unit.scale}, {0.0}}, step);
  std::vector<float> factor;
  for (const double divisor : of.divisors) {
    factor.push_back(average_factor(unit.scale, step, divisor));
  }
  builder.write({static_cast<int>(of.rows.size() / 2), static_cast<int>(of.columns.size() / 2)});
  builder.add([of = std::move(of), factor = std::move(factor), input_zero = unit.zero,
               zero = bytes.zero](Program& program, const Choices&) {
    add_byte_average(program, of.input, of.output, of.rows, of.columns, factor, input_zero, zero);
  });
}

}  // namespace rsquant::packed
