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
    const int element = in.kind == Kind::real ? 4 : 1;
    const Resize now = {in.channels,           out.width,        element,
                        rows.data(),           columns.data(),   row_weights.data(),
                        column_weights.data(), p.inside(input),  in.row(),
                        in.pixel_bytes(),      p.inside(output), out.row(),
                        out.pixel_bytes()};
    p.fill_border(output);
    p.parallel(out.height, [&](int row, int) {
      if (blend) {
        p.isa().table->sampling.blend(now, row);
      } else {
        nearest(now, row);
      }
    });
  }

  static void nearest(const Resize& r, int row) {
    const std::uint8_t* from = r.input + r.rows[2 * row] * r.in_row;
    std::uint8_t* to = r.output + row * r.out_row;
    for (int x = 0; x < r.out_w; ++x, to += r.out_pixel) {
      std::memcpy(to, from + r.columns[2 * x] * r.in_pixel,
                  static_cast<std::size_t>(r.channels) * r.element);
    }
  }
};

std::vector<int> checked_indices(Pairs given, int count, int side) {
  require(given.size() == 2 * static_cast<std::size_t>(count), "indices: (n, 2)");
  require(std::all_of(given.begin(), given.end(), [&](int i) { return i >= 0 && i < side; }),
          "an index outside the input");
  return {given.begin(), given.end()};
}

// Of bytes: whole parts of 128 that add up to 1.
std::vector<float> checked_weights(std::span<const float> given, int count, Kind kind) {
  require(given.size() == 2 * static_cast<std::size_t>(count), "weights: (n, 2)");
  for (std::size_t i = 0; kind != Kind::real && i < given.size(); i += 2) {
    const float first = 128 * given[i], second = 128 * given[i + 1];
    require(first >= 0 && second >= 0 && first + second == 128 && first == static_cast<int>(first),
            "weights of bytes: parts of 128 that add up to 1");
  }
  return {given.begin(), given.end()};
}

}  // namespace

void add_resize(Program& program, int input, int output, Pairs rows,
                std::span<const float> row_weights, Pairs columns,
                std::span<const float> column_weights, bool blend) {
  const Value &in = program.value_at(input), &out = program.value_at(output);
  require(in.kind != Kind::image && in.kind == out.kind && in.channels == out.channels,
          "to resize: float values or bytes of as many channels");
  auto step = std::make_unique<ResizeStep>();
  step->input = input, step->output = output, step->blend = blend;
  step->rows = checked_indices(rows, out.height, in.height);
  step->columns = checked_indices(columns, out.width, in.width);
  step->row_weights = checked_weights(row_weights, out.height, in.kind);
  step->column_weights = checked_weights(column_weights, out.width, in.kind);
  program.reads(input);
  program.writes(output);
  program.add(std::move(step));
}

}  // namespace rsquant
