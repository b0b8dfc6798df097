#include "windows.h"

#include <algorithm>

#include "plan.h"

namespace rsquant::packed {
namespace {

std::int64_t floor_divide(std::int64_t a, std::int64_t b) {
  return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return -floor_divide(-a, b); }

// Zeros before and after one side.
Pair same(int side, int extent, int stride, bool odd_first) {
  const std::int64_t total =
      std::max<std::int64_t>((ceil_divide(side, stride) - 1) * stride + extent - side, 0);
  const int half = static_cast<int>(total / 2), rest = static_cast<int>(total - total / 2);
  return odd_first ? Pair{rest, half} : Pair{half, rest};
}

}  // namespace

bool Padding::reaches(Pair most) const {
  if (is_rule()) return false;
  for (std::size_t i = 0; i < 4; ++i) {
    if (sides[i] >= most[i % 2]) return true;
  }
  return false;
}

Sides Padding::at(Pair map, Pair extent, Pair stride) const {
  if (!is_rule()) return sides;
  const bool odd_first = form == Form::same_lower;
  const Pair rows = same(map[0], extent[0], stride[0], odd_first);
  const Pair columns = same(map[1], extent[1], stride[1], odd_first);
  return {rows[0], columns[0], rows[1], columns[1]};
}

Padding read_padding(Fields& fields) {
  const Json& value = fields.take("padding");
  if (const std::string* rule = value.as<std::string>()) {
    if (*rule == "same") return {Padding::Form::same, {}};
    if (*rule == "same-lower") return {Padding::Form::same_lower, {}};
    fields.wrong("padding", "pixels or one of same, same-lower");
  }
  const std::vector<int> pixels =
      fields.as_integers("padding", value, 0, kMostKernel * kMostKernel, 2, 4);
  if (pixels.size() == 3) fields.wrong("padding", "2 or 4 numbers, got 3");
  if (pixels.size() == 2) {
    return {Padding::Form::pair, {pixels[0], pixels[1], pixels[0], pixels[1]}};
  }
  return {Padding::Form::sides, {pixels[0], pixels[1], pixels[2], pixels[3]}};
}

Padding read_pool_padding(Fields& fields, Pair extent) {
  const Padding padding = read_padding(fields);
  const Pair half = {extent[0] / 2 + 1, extent[1] / 2 + 1};
  if (padding.reaches(padding.form == Padding::Form::pair ? half : extent)) {
    throw FieldError{fields.where +
                     ": padding must be at most half the kernel, or, where sides differ, smaller "
                     "than the kernel"};
  }
  return padding;
}

Pair extent_of(Pair kernel, Pair dilation) {
  return {dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1};
}

int output_side(int side, int before, int after, int extent, int stride) {
  return static_cast<int>(floor_divide(std::int64_t{side} + before + after - extent, stride) + 1);
}

SpanTable sliding(int side, int before, int after, int kernel, int stride, int dilation,
                  bool ceil_mode) {
  const std::int64_t extent = std::int64_t{dilation} * (kernel - 1) + 1;
  const std::int64_t padded = std::int64_t{side} + before + after;
  std::int64_t count = floor_divide(padded - extent + (ceil_mode ? stride - 1 : 0), stride) + 1;
  if (ceil_mode && (count - 1) * stride >= std::int64_t{side} + before) --count;
  SpanTable spans;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t begin = i * stride - before;
    spans.push_back(static_cast<std::int32_t>(begin));
    spans.push_back(static_cast<std::int32_t>(begin + extent));
  }
  return spans;
}

SpanTable inside(const SpanTable& spans, int side, int dilation) {
  SpanTable found;
  for (std::size_t at = 0; at < spans.size(); at += 2) {
    const std::int64_t outside = std::max(-spans[at], 0);
    found.push_back(spans[at] +
                    static_cast<std::int32_t>(ceil_divide(outside, dilation) * dilation));
    found.push_back(std::min(spans[at + 1], side));
  }
  return found;
}

SpanTable adaptive(int side, int count) {
  SpanTable spans;
  for (std::int64_t i = 0; i < count; ++i) {
    spans.push_back(static_cast<std::int32_t>(i * side / count));
    spans.push_back(static_cast<std::int32_t>(ceil_divide((i + 1) * side, count)));
  }
  return spans;
}

std::int64_t longest(const SpanTable& spans) {
  std::int64_t most = 0;
  for (std::size_t at = 0; at < spans.size(); at += 2) {
    most = std::max<std::int64_t>(most, spans[at + 1] - spans[at]);
  }
  return most;
}

}  // namespace rsquant::packed
