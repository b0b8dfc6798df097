// A map of floats or of bytes of another height and width: rsquant/packed/ops/resize.py.

#include <algorithm>
#include <cmath>

#include "builder.h"
#include "op.h"
#include "resampling.h"

namespace rsquant::packed {
namespace {

enum class Mode { nearest, nearest_exact, bilinear };

struct ResizeOp : Op {
  int input, output;
  Mode mode;
  bool align_corners, recompute;
  std::optional<Pair> size;
  std::optional<int> like;
  std::vector<double> scale;  // or none

  void check(Checker& checker) const override {
    if (like) checker.read(*like);
    const ValueSpec& source = checker.read_map(input, true);
    if (source.what == What::codes) {
      checker.wrong(text_of("needs a float value or bytes, ", input, " is codes"));
    }
    if (source.what == What::bytes) checker.since(kByteMaps, "resizes bytes, which is known");
    checker.write(output, source);
  }

  void build(Builder& builder) const override {
    const ValueAt source = builder.value(input);
    const Pair map = source.pixels();
    Pair out = {};
    if (like) {
      out = builder.value(*like).pixels();
    } else if (size) {
      out = *size;
    } else {
      for (std::size_t i = 0; i < 2; ++i) {
        const double side = std::floor(map[i] * scale[i]);
        if (side < 1) builder.too_small();
        out[i] = side > kMostSide ? kMostSide + 1 : static_cast<int>(side);
      }
      if (std::max(out[0], out[1]) > kMostSide) {
        builder.invalid(text_of("gives a map of more than ", kMostSide, " pixels a side"));
      }
    }
    Taps rows = taps(map, out, 0), columns = taps(map, out, 1);
    builder.write(out, builder.bound(input), builder.range(input));
    const bool blend = mode == Mode::bilinear;
    if (blend && source.what == What::bytes) {
      rows = in_parts(std::move(rows)), columns = in_parts(std::move(columns));
    }
    builder.add([input = input, output = output, rows = std::move(rows),
                 columns = std::move(columns), blend](Program& program, const Choices&) {
      add_resize(program, input, output, rows.pixels, rows.weights, columns.pixels, columns.weights,
                 blend);
    });
  }

  Taps taps(Pair map, Pair out, std::size_t axis) const {
    std::optional<double> factor;
    if (!scale.empty() && !recompute) factor = scale[axis];
    if (mode == Mode::bilinear) return linear_taps(map[axis], out[axis], factor, align_corners);
    return nearest_taps(map[axis], out[axis], factor, mode == Mode::nearest_exact);
  }
};

}  // namespace

OpPointer read_resize(Fields& fields) {
  auto op = std::make_unique<ResizeOp>();
  const std::string mode = fields.text("mode");
  if (mode == "nearest") {
    op->mode = Mode::nearest;
  } else if (mode == "nearest-exact") {
    op->mode = Mode::nearest_exact;
  } else if (mode == "bilinear") {
    op->mode = Mode::bilinear;
  } else {
    fields.wrong("mode", "one of nearest, nearest-exact, bilinear");
  }
  if (!fields.is_null("size")) op->size = fields.pair("size", 1, kMostSide);
  op->like = fields.integer_or_none("like", 0, kLastValue);
  if (!fields.is_null("scale")) op->scale = fields.reals("scale", 2, 2, true);
  if (op->size.has_value() + op->like.has_value() + !op->scale.empty() != 1) {
    throw FieldError{fields.where + ": has not one of 'size', 'like' and 'scale'"};
  }
  op->input = fields.integer("input", 1, kLastValue);
  op->output = fields.integer("output", 1, kLastValue);
  op->align_corners = fields.flag("align_corners");
  op->recompute = fields.flag("recompute");
  return op;
}

}  // namespace rsquant::packed
