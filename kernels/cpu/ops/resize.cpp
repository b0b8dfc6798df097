// A map of another height and width, of its nearest pixels or blended between four.

#include <algorithm>
#include <cstring>

#include "ops/binding.h"
#include "sampling.h"

namespace rsquant {
namespace {

struct ResizeStep : Step {
  int input, output;
  bool blend;
  std::vector<int> rows, columns;
  std::vector<float> row_weights, column_weights;

  void run(Program& p) override {
    const Value &in = p.value_at(input), &out = p.value_at(output);
    const Resize now = {in.channels,           in.width,        out.width,
                        rows.data(),           columns.data(),  row_weights.data(),
                        column_weights.data(), p.floats(input), p.floats(output)};
    p.parallel(out.height, [&](int row, int) {
      if (blend) {
        p.isa().table->sampling.blend(now, row);
      } else {
        nearest(now, row);
      }
    });
  }

  static void nearest(const Resize& r, int row) {
    const std::int64_t from = static_cast<std::int64_t>(r.rows[2 * row]) * r.in_w;
    const std::int64_t to = static_cast<std::int64_t>(row) * r.out_w;
    for (int x = 0; x < r.out_w; ++x) {
      std::memcpy(r.output + (to + x) * r.channels,
                  r.input + (from + r.columns[2 * x]) * r.channels,
                  static_cast<std::size_t>(r.channels) * sizeof(float));
    }
  }
};

std::vector<int> checked_indices(const Array<const std::int32_t, 2>& given, int count, int side) {
  require(static_cast<int>(given.shape(0)) == count && given.shape(1) == 2, "indices: (n, 2)");
  const std::vector<int> found(given.data(), given.data() + given.size());
  require(std::all_of(found.begin(), found.end(), [&](int i) { return i >= 0 && i < side; }),
          "an index outside the input");
  return found;
}

std::vector<float> checked_weights(const Array<const float, 2>& given, int count) {
  require(static_cast<int>(given.shape(0)) == count && given.shape(1) == 2, "weights: (n, 2)");
  return {given.data(), given.data() + given.size()};
}

void resize(BoundProgram& bound, int input, int output, Array<const std::int32_t, 2> rows,
            Array<const float, 2> row_weights, Array<const std::int32_t, 2> columns,
            Array<const float, 2> column_weights, bool blend) {
  Program& program = bound.program;
  const Value &in = program.value_at(input), &out = program.value_at(output);
  require(in.kind == Kind::real && out.kind == Kind::real && in.channels == out.channels,
          "to resize: float values of as many channels");
  auto step = std::make_unique<ResizeStep>();
  step->input = input, step->output = output, step->blend = blend;
  step->rows = checked_indices(rows, out.height, in.height);
  step->columns = checked_indices(columns, out.width, in.width);
  step->row_weights = checked_weights(row_weights, out.height);
  step->column_weights = checked_weights(column_weights, out.width);
  program.reads(input);
  program.writes(output);
  program.add(std::move(step));
}

}  // namespace

void bind_resize(ProgramClass& program) {
  program.def("resize", &resize, nb::kw_only(), nb::arg("input"), nb::arg("output"),
              nb::arg("rows"), nb::arg("row_weights"), nb::arg("columns"),
              nb::arg("column_weights"), nb::arg("blend"));
}

}  // namespace rsquant
