#include "fold.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rsquant::packed {
namespace {

// Of thresholds halfway between levels, in float32: 254 x 2**-24, and what a scale of 2**-24 adds.
constexpr double kRounding = 1e-3;
// How far from the solution in real numbers an integer threshold is looked for first.
constexpr std::int64_t kNear = 4;

// The largest float32 that is at most t.
float below(double t) {
  const float rounded = static_cast<float>(t);
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  return static_cast<double>(rounded) > t ? std::nextafter(rounded, kLowest) : rounded;
}

}  // namespace

Doubles blended(const Tensor& table, const Blend& rows) {
  const auto numbers = table.numbers<float>();
  const std::size_t count = static_cast<std::size_t>(table.shape[1]);
  const std::size_t channels = static_cast<std::size_t>(table.shape[2]);
  Doubles found;
  found.reserve(static_cast<std::size_t>(table.shape[0]) * channels);
  for (std::size_t a = 0; a < static_cast<std::size_t>(table.shape[0]); ++a) {
    const float* one = numbers.data() + (a * count + rows.i) * channels;
    const float* other = numbers.data() + (a * count + rows.j) * channels;
    for (std::size_t c = 0; c < channels; ++c) {
      const double first = one[c];
      found.push_back(rows.weight == 0 ? first : first + rows.weight * (other[c] - first));
    }
  }
  return found;
}

Affine affine_of(const Doubles& norm, double eps) {
  const std::size_t channels = norm.size() / 4;
  const double *gamma = norm.data(), *beta = gamma + channels, *mean = beta + channels,
               *var = mean + channels;
  Affine found;
  for (std::size_t c = 0; c < channels; ++c) {
    const double a = gamma[c] / std::sqrt(var[c] + eps);
    found.scale.push_back(a);
    found.shift.push_back(beta[c] - mean[c] * a);
  }
  return found;
}

Thresholds thresholds_of(const Quantizer& quantizer, std::size_t channels) {
  Thresholds found = {{}, std::vector<int>(channels, 1)};
  for (const double t : quantizer.thresholds()) {
    found.threshold.insert(found.threshold.end(), channels, t);
  }
  return found;
}

void before_clip(Thresholds& of, bool relu, std::optional<double> clip) {
  if (!relu && !clip) return;
  const std::size_t channels = of.sign.size();
  for (std::size_t i = 0; i < of.threshold.size(); ++i) {
    const int sign = of.sign[i % channels];
    const bool rising = sign > 0;
    const double bound = of.threshold[i] * sign;  // what u is compared with
    if (relu && rising && bound < 0) of.threshold[i] = -kInfinity;
    if (relu && !rising && bound <= 0) of.threshold[i] = kInfinity;
    if (clip && rising && *clip <= bound) of.threshold[i] = kInfinity;
    if (clip && !rising && *clip < bound) of.threshold[i] = -kInfinity;
  }
}

void before_affine(Thresholds& of, const Doubles& a, const Doubles& b) {
  const std::size_t channels = of.sign.size();
  for (std::size_t i = 0; i < of.threshold.size(); ++i) {
    const std::size_t c = i % channels;
    double rest = of.threshold[i] - of.sign[c] * b[c];
    const bool dead = a[c] == 0;
    if (dead) rest = rest < 0 ? -kInfinity : kInfinity;
    of.threshold[i] = rest / std::abs(dead ? 1.0 : a[c]);
  }
  for (std::size_t c = 0; c < channels; ++c) {
    if (a[c] < 0) of.sign[c] = -of.sign[c];
  }
}

std::vector<std::int32_t> to_integers(const Doubles& thresholds) {
  constexpr double kLow = std::numeric_limits<std::int32_t>::min();
  constexpr double kHigh = std::numeric_limits<std::int32_t>::max();
  std::vector<std::int32_t> found;
  found.reserve(thresholds.size());
  for (const double t : thresholds) {
    found.push_back(static_cast<std::int32_t>(std::clamp(std::floor(t), kLow, kHigh)));
  }
  return found;
}

std::vector<float> to_float32(const Doubles& thresholds) {
  std::vector<float> found;
  found.reserve(thresholds.size());
  for (const double t : thresholds) found.push_back(below(t));
  return found;
}

Scaled multiplier_and_bias(const Doubles& slope, const Doubles& shift) {
  constexpr double kTiny = std::numeric_limits<float>::min();
  Scaled found;
  for (std::size_t c = 0; c < slope.size(); ++c) {
    const float up = static_cast<float>(std::max(std::abs(shift[c]) / kBiasLimit, kTiny));
    const double least = std::nextafter(up, std::numeric_limits<float>::infinity());
    const double wanted = std::abs(slope[c]) < least ? (slope[c] < 0 ? -least : least) : slope[c];
    const float a = static_cast<float>(wanted);
    found.factor.push_back(a);
    const float bias = static_cast<float>(std::rint(shift[c] / static_cast<double>(a)));
    found.bias.push_back(static_cast<std::int32_t>(bias));
  }
  return found;
}

namespace {

// The nearest odd multiple of 2^-15 where 2^-7 <= |slope| < 1; elsewhere as it is.
double odd_multiple(double slope) {
  const double size = std::abs(slope);
  if (size < kLeastRounded || size >= 1.0) return slope;
  const double odd = 2.0 * std::floor(size / (2.0 * kMultiplierUnit)) + 1.0;
  return std::copysign(odd * kMultiplierUnit, slope);
}

}  // namespace

Scaled into_bytes(const Doubles& slope, const Doubles& shift, double step, bool has_sign) {
  step = std::max(step, kLeastStep);
  Doubles a = slope, b = shift;
  for (double& v : a) v = has_sign ? odd_multiple(v / step) : v / step;
  for (double& v : b) v /= step;
  return multiplier_and_bias(a, b);
}

Scaled into_levels(const Doubles& slope, const Doubles& shift, double step) {
  const double half = std::max(step, kLeastStep) / 2;
  Doubles a = slope, b = shift;
  for (double& v : a) v /= half;
  for (double& v : b) v = v / half + 0.5;
  return multiplier_and_bias(a, b);
}

IntegerThresholds integer_thresholds(const Scaled& of, const std::vector<std::int64_t>& bounds) {
  const std::size_t channels = of.factor.size();
  IntegerThresholds found = {std::vector<std::int32_t>(bounds.size() * channels), {}};
  for (std::size_t c = 0; c < channels; ++c) {
    const int sign = of.factor[c] < 0 ? -1 : 1;
    found.sign.push_back(sign);
    const float size = std::abs(of.factor[c]);
    const std::int32_t moved = sign * of.bias[c];
    for (std::size_t k = 0; k < bounds.size(); ++k) {
      const float wanted = static_cast<float>(bounds[k]);
      const auto exceeded = [&](std::int64_t n) {
        return std::rint(size * static_cast<float>(static_cast<std::int32_t>(n) + moved)) > wanted;
      };
      // Most often t is next to the solution in real numbers.
      const double real = (wanted + 0.5) / static_cast<double>(size) - moved;
      const std::int64_t near =
          std::isnan(real) ? 0
                           : static_cast<std::int64_t>(std::clamp(
                                 real, -static_cast<double>(kSumLimit), double{kSumLimit}));
      constexpr std::int64_t kAlways = -std::int64_t{kSumLimit} - 1, kNever = kSumLimit + 1;
      std::int64_t low = std::max(near - kNear, kAlways);
      if (exceeded(low)) low = kAlways;  // not exceeded here
      std::int64_t high = std::min(near + kNear, kNever);
      if (!exceeded(high)) high = kNever;  // exceeded here
      while (high - low > 1) {
        const std::int64_t middle = (low + high) >> 1;
        (exceeded(middle) ? high : low) = middle;
      }
      found.threshold[k * channels + c] = static_cast<std::int32_t>(low);
    }
  }
  return found;
}

float average_factor(double input_step, double step, double pixels) {
  return static_cast<float>(input_step / (std::max(step, kLeastStep) * pixels));
}

int clipped_at(double clip, double step) {
  return static_cast<int>(
      std::min(std::rint(clip / std::max(step, kLeastStep)), double{kSumLimit}));
}

std::optional<std::vector<std::int64_t>> bounds_of(const Quantizer& quantizer) {
  std::vector<std::int64_t> bounds;
  if (!quantizer.own) {
    const std::vector<int> levels = quantizer.levels();
    for (std::size_t i = 1; i < levels.size(); ++i) bounds.push_back(levels[i - 1] + levels[i]);
    return bounds;
  }
  constexpr double kMost = kBeyond;
  for (const double own : *quantizer.own) {
    const double doubled = own / (quantizer.scale / 2);
    const double bound = std::rint(std::clamp(doubled, -kMost, kMost));
    if (std::abs(doubled) < kMost && std::abs(doubled - bound) > kRounding) return std::nullopt;
    bounds.push_back(static_cast<std::int64_t>(bound));
  }
  return bounds;
}

}  // namespace rsquant::packed
