// The operations of programs, one file each: `add_NAME` checks that values and tables fit, declares
// what is read and written, and adds the step. Who adds them (the Python bindings, the C library)
// has checked what a user can get wrong. What spans and pointers point to is copied, but for
// weights.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "program.h"
#include "steps/conv_weights.h"
#include "steps/tables.h"

namespace rsquant {

using Pair = std::array<int, 2>;  // height and width

constexpr std::int64_t kAnySum = std::int64_t{1} << 31;  // what steps that are no convolution have

// Two numbers for each pixel of an axis: of a window the first pixel and the one behind the last,
// or two pixels that are blended.
using Pairs = std::span<const std::int32_t>;

// form: without sizes. `prepared` may be null for a kernel with low_memory. What `source` points to
// must outlive the program.
void add_conv(Program& program, const ConvKernel& kernel, const ConvShape& form, float inverse_step,
              int input, std::shared_ptr<Prepared> prepared, const ConvWeights& source,
              Tables tables);

void add_map(Program& program, int input, Tables tables);

// y = value[x] of bytes, else see elementwise.h.
struct FunctionTable {
  float low, step;
  std::span<const float> value, slope, curve;
};
void add_function(Program& program, int input, const FunctionTable& table, Tables tables);

// Product or sum of two values, each side of which is the result's or 1.
void add_binary(Program& program, Pair inputs, bool multiply, Tables tables);

void add_max_pool(Program& program, int input, int output, Pairs rows, Pairs columns,
                  Pair dilation);

// scale, shift: per channel. See sampling.h.
void add_average_pool(Program& program, int input, int output, std::span<const float> scale,
                      std::span<const float> shift, float low, float high);

// share: per pixel of the output.
void add_average_windows(Program& program, int input, int output, Pairs rows, Pairs columns,
                         std::span<const float> share);

// factor: per pixel of the output.
void add_byte_average(Program& program, int input, int output, Pairs rows, Pairs columns,
                      std::span<const float> factor, int input_zero, int zero);

// weight: (outputs, inputs), which must outlive the program. scale, bias: per output.
void add_linear(Program& program, int input, int output, int limit,
                std::span<const std::int8_t> weight, std::span<const float> scale,
                std::span<const float> bias);

// weight: (outputs, inputs), which must outlive the program. factor, bias: per output.
void add_byte_linear(Program& program, int input, int output, std::span<const std::int8_t> weight,
                     std::span<const float> factor, std::span<const std::int32_t> bias, int zero);

// Channel i of the result is channel index[i].
void add_channels(Program& program, int input, int output, std::span<const std::int32_t> index);

void add_concat(Program& program, std::vector<int> inputs, int output);

void add_flatten(Program& program, int input, int output);

// Where the input's first pixel and channel are in the result; below 0: cut off.
void add_pad(Program& program, int input, int output, int top, int left, int channel, float value);

// Weights: two per pixel of an axis. Without `blend` the first pixel alone counts.
void add_resize(Program& program, int input, int output, Pairs rows,
                std::span<const float> row_weights, Pairs columns,
                std::span<const float> column_weights, bool blend);

// The windows of an axis as numbers, see sampling.h. Throws unless each of `count` windows has
// pixels and lies on a side of so many pixels.
std::vector<int> checked_spans(Pairs spans, int count, int side);

}  // namespace rsquant
