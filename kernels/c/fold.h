// BatchNorm, ReLU and quantizer folded into one multiplication, one addition and thresholds, and
// the arithmetic of integer networks: rsquant/packed/fold.py and integers.py, which say why.
// Operations are float64 in Python's order, so that the results are its bits.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "container.h"
#include "plan.h"
#include "settings.h"

namespace rsquant::packed {

using Doubles = std::vector<double>;  // (C,) where nothing else is said

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int kByteTop = 255;
constexpr int kSumLimit = 1 << 24;   // |n| of every integer sum
constexpr int kBiasLimit = 1 << 30;  // |B| of y = a * float32(n + B)
constexpr int kByteWeight = 64;      // what a byte that is mapped is multiplied by
constexpr int kWeightLimit = 64;     // |weight| at most for layers that read bytes
constexpr double kLeastStep = 1e-20;
constexpr double kMultiplierUnit = 1.0 / (1 << 15);  // of codes with a sign, from this on:
constexpr double kLeastRounded = 1.0 / (1 << 7);

// A row or two of a table (A, S, C): all A rows one behind the other, (A, C).
Doubles blended(const Tensor& table, const Blend& rows);

// scale x + shift.
struct Affine {
  Doubles scale, shift;
};
// A BatchNorm (4, C), gamma, beta, mean and variance.
Affine affine_of(const Doubles& norm, double eps);

// code = number of k with sign * u > threshold[k]; thresholds (L - 1, C), sign +1 or -1 (C,).
struct Thresholds {
  Doubles threshold;
  std::vector<int> sign;
};
Thresholds thresholds_of(const Quantizer& quantizer, std::size_t channels);
// Thresholds for v, given those for u = min(max(v, 0) if relu, clip).
void before_clip(Thresholds& after, bool relu, std::optional<double> clip);
// Thresholds for v, given those for u = a v + b.
void before_affine(Thresholds& after, const Doubles& a, const Doubles& b);

std::vector<std::int32_t> to_integers(const Doubles& thresholds);
std::vector<float> to_float32(const Doubles& thresholds);

// y = a * float32(n + B).
struct Scaled {
  std::vector<float> factor;
  std::vector<std::int32_t> bias;
};
Scaled multiplier_and_bias(const Doubles& slope, const Doubles& shift);
// Of codes: y = (slope n + shift) / step. has_sign: they are -128 to 127.
Scaled into_bytes(const Doubles& slope, const Doubles& shift, double step, bool has_sign);
// Of a quantizer's levels: y = (slope n + shift) / (step / 2) + 1/2.
Scaled into_levels(const Doubles& slope, const Doubles& shift, double step);

// For which n round(y) exceeds integers: sign * n > t; t (L - 1, C).
struct IntegerThresholds {
  std::vector<std::int32_t> threshold;
  std::vector<int> sign;
};
IntegerThresholds integer_thresholds(const Scaled& of, const std::vector<std::int64_t>& bounds);

// a of an average pooling of so many pixels.
float average_factor(double input_step, double step, double pixels);
// The code of a ReLU6's 6.
int clipped_at(double clip, double step);

// What twice a value in units of the scale is compared with (L - 1,); none where a threshold is
// something else than halfway between two levels, or beyond all values.
std::optional<std::vector<std::int64_t>> bounds_of(const Quantizer& quantizer);
constexpr std::int64_t kBeyond = 1 << 16;

}  // namespace rsquant::packed
