// The operations of a program but convolutions, as methods; see steps/steps.h.

#include "python/binding.h"

namespace rsquant {
namespace {

template <class T>
using Row = Array<const T, 1>;
template <class T>
using Table = Array<const T, 2>;

// (n, 2): see `Pairs`.
Pairs pairs(const Table<std::int32_t>& array) {
  require(array.shape(1) == 2, "pairs: (n, 2)");
  return numbers(array);
}

// One number per pixel of a value.
std::span<const float> per_pixel(const Table<float>& array, const Value& of) {
  require(
      static_cast<int>(array.shape(0)) == of.height && static_cast<int>(array.shape(1)) == of.width,
      "one number per pixel");
  return numbers(array);
}

// (outputs, inputs) of a linear layer; kept alive with the program.
std::span<const std::int8_t> weight_of(BoundProgram& bound, int input, int output,
                                       const Table<std::int8_t>& weight) {
  require(static_cast<int>(weight.shape(0)) == bound.program.value_at(output).channels &&
              static_cast<int>(weight.shape(1)) == bound.program.value_at(input).channels,
          "weight: (outputs, inputs)");
  bound.objects.push_back(nb::cast(weight));
  return numbers(weight);
}

void bind_elementwise(ProgramClass& program) {
  program
      .def(
          "map",
          [](BoundProgram& b, int input, const GivenTables& given) {
            add_map(b.program, input, given.tables(b.program.value_at(input).channels, kAnySum));
          },
          nb::kw_only(), nb::arg("input"), nb::arg("tables"))
      .def(
          "function",
          [](BoundProgram& b, int input, float low, float step, Row<float> value, Row<float> slope,
             Row<float> curve, const GivenTables& given) {
            const FunctionTable of = {low, step, numbers(value), numbers(slope), numbers(curve)};
            add_function(b.program, input, of,
                         given.tables(b.program.value_at(input).channels, kAnySum));
          },
          nb::kw_only(), nb::arg("input"), nb::arg("low"), nb::arg("step"), nb::arg("value"),
          nb::arg("slope"), nb::arg("curve"), nb::arg("tables"))
      .def(
          "binary",
          [](BoundProgram& b, Pair inputs, bool multiply, int channels, const GivenTables& given) {
            add_binary(b.program, inputs, multiply, given.tables(channels, kAnySum));
          },
          nb::kw_only(), nb::arg("inputs"), nb::arg("multiply"), nb::arg("channels"),
          nb::arg("tables"));
}

void bind_poolings(ProgramClass& program) {
  program
      .def(
          "max_pool",
          [](BoundProgram& b, int input, int output, Table<std::int32_t> rows,
             Table<std::int32_t> columns, Pair dilation) {
            add_max_pool(b.program, input, output, pairs(rows), pairs(columns), dilation);
          },
          nb::kw_only(), nb::arg("input"), nb::arg("output"), nb::arg("rows"), nb::arg("columns"),
          nb::arg("dilation"))
      .def(
          "average_pool",
          [](BoundProgram& b, int input, int output, Row<float> scale, Row<float> shift, float low,
             float high) {
            add_average_pool(b.program, input, output, numbers(scale), numbers(shift), low, high);
          },
          nb::kw_only(), nb::arg("input"), nb::arg("output"), nb::arg("scale"), nb::arg("shift"),
          nb::arg("low"), nb::arg("high"))
      .def(
          "average_windows",
          [](BoundProgram& b, int input, int output, Table<std::int32_t> rows,
             Table<std::int32_t> columns, Table<float> share) {
            add_average_windows(b.program, input, output, pairs(rows), pairs(columns),
                                per_pixel(share, b.program.value_at(output)));
          },
          nb::kw_only(), nb::arg("input"), nb::arg("output"), nb::arg("rows"), nb::arg("columns"),
          nb::arg("share"))
      .def(
          "byte_average",
          [](BoundProgram& b, int input, int output, Table<std::int32_t> rows,
             Table<std::int32_t> columns, Table<float> factor, int input_zero, int zero) {
            add_byte_average(b.program, input, output, pairs(rows), pairs(columns),
                             per_pixel(factor, b.program.value_at(output)), input_zero, zero);
          },
          nb::kw_only(), nb::arg("input"), nb::arg("output"), nb::arg("rows"), nb::arg("columns"),
          nb::arg("factor"), nb::arg("input_zero"), nb::arg("zero"));
}

void bind_linear(ProgramClass& program) {
  program
      .def(
          "linear",
          [](BoundProgram& b, int input, int output, int limit, Table<std::int8_t> weight,
             Row<float> scale, Row<float> bias) {
            add_linear(b.program, input, output, limit, weight_of(b, input, output, weight),
                       numbers(scale), numbers(bias));
          },
          nb::kw_only(), nb::arg("input"), nb::arg("output"), nb::arg("limit"), nb::arg("weight"),
          nb::arg("scale"), nb::arg("bias"))
      .def(
          "byte_linear",
          [](BoundProgram& b, int input, int output, Table<std::int8_t> weight, Row<float> factor,
             Row<std::int32_t> bias, int zero) {
            add_byte_linear(b.program, input, output, weight_of(b, input, output, weight),
                            numbers(factor), numbers(bias), zero);
          },
          nb::kw_only(), nb::arg("input"), nb::arg("output"), nb::arg("weight"), nb::arg("factor"),
          nb::arg("bias"), nb::arg("zero"));
}

void bind_moves(ProgramClass& program) {
  program
      .def(
          "channels",
          [](BoundProgram& b, int input, int output, Row<std::int32_t> index) {
            add_channels(b.program, input, output, numbers(index));
          },
          nb::kw_only(), nb::arg("input"), nb::arg("output"), nb::arg("index"))
      .def(
          "concat",
          [](BoundProgram& b, std::vector<int> inputs, int output) {
            add_concat(b.program, std::move(inputs), output);
          },
          nb::kw_only(), nb::arg("inputs"), nb::arg("output"))
      .def(
          "flatten",
          [](BoundProgram& b, int input, int output) { add_flatten(b.program, input, output); },
          nb::kw_only(), nb::arg("input"), nb::arg("output"))
      .def(
          "pad",
          [](BoundProgram& b, int input, int output, int top, int left, int channel, float value) {
            add_pad(b.program, input, output, top, left, channel, value);
          },
          nb::kw_only(), nb::arg("input"), nb::arg("output"), nb::arg("top"), nb::arg("left"),
          nb::arg("channel"), nb::arg("value"))
      .def(
          "resize",
          [](BoundProgram& b, int input, int output, Table<std::int32_t> rows,
             Table<float> row_weights, Table<std::int32_t> columns, Table<float> column_weights,
             bool blend) {
            add_resize(b.program, input, output, pairs(rows), numbers(row_weights), pairs(columns),
                       numbers(column_weights), blend);
          },
          nb::kw_only(), nb::arg("input"), nb::arg("output"), nb::arg("rows"),
          nb::arg("row_weights"), nb::arg("columns"), nb::arg("column_weights"), nb::arg("blend"));
}

}  // namespace

void bind_steps(ProgramClass& program) {
  bind_elementwise(program);
  bind_poolings(program);
  bind_linear(program);
  bind_moves(program);
}

}  // namespace rsquant
