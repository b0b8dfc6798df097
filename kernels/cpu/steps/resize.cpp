// A map of another height and width, of its nearest pixels or blended between four.

#include <algorithm>
#include <cstring>

#include "steps/steps.h"
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

std::vector<int> checked_indices(Pairs given, int count, int side) {
  require(given.size() == 2 * static_cast<std::size_t>(count), "indices: (n, 2)");
  require(std::all_of(given.begin(), given.end(), [&](int i) { return i >= 0 && i < side; }),
          "an index outside the input");
  return {given.begin(), given.end()};
}

std::vector<float> checked_weights(std::span<const float> given, int count) {
  require(given.size() == 2 * static_cast<std::size_t>(count), "weights: (n, 2)");
  return {given.begin(), given.end()};
}

}  // namespace

void add_resize(Program& program, int input, int output, Pairs rows,
                std::span<const float> row_weights, Pairs columns,
                std::span<const float> column_weights, bool blend) {
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

}  // namespace rsquant
