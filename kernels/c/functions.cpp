#include "functions.h"

#include <algorithm>
#include <cmath>

namespace rsquant::packed {
namespace {

// Beyond it every function here is its asymptote, to 4e-8.
constexpr double kReach = 20.0;
constexpr double kSeluAlpha = 1.6732632423543772, kSeluScale = 1.0507009873554805;
constexpr double kSize = 1024.0;
// 2 / pi, as Python divides it.
const double kTwoOverPi = 2.0 / 3.141592653589793;

double clip(double x, double low, double high) { return std::min(std::max(x, low), high); }

double sigmoid(double x, double) { return 0.5 * (1.0 + std::tanh(0.5 * x)); }

double softplus(double x, double beta) {
  const double y = beta * x;
  return (std::max(y, 0.0) + std::log1p(std::exp(-std::abs(y)))) / beta;
}

double elu(double x, double alpha) { return x > 0 ? x : alpha * std::expm1(std::min(x, 0.0)); }

double gelu_tanh(double x, double) {
  const double near = clip(x, -1e3, 1e3);  // the cube must not overflow
  const double cube = near * near * near;
  return 0.5 * x * (1.0 + std::tanh(std::sqrt(kTwoOverPi) * (near + 0.044715 * cube)));
}

double zero(double) { return 0.0; }
double one(double) { return 1.0; }

const KnownFunction kFunctions[] = {
    {"abs", [](double x, double) { return std::abs(x); }, [](double) { return -1.0; }, one, false,
     0, 0, one},
    {"celu",
     [](double x, double alpha) {
       return x > 0 ? x : alpha * std::expm1(std::min(x, 0.0) / alpha);
     },
     zero, one, true, 1 / kSize, kSize, [](double alpha) { return alpha; }},
    {"elu", elu, zero, one, true, -kSize, kSize, one},
    {"gelu", [](double x, double) { return x * (0.5 * std::erfc(-x / std::sqrt(2.0))); }, zero, one,
     false, 0, 0, one},
    {"gelu_tanh", gelu_tanh, zero, one, false, 0, 0, one},
    {"hardsigmoid", [](double x, double) { return clip(x + 3, 0, 6) / 6; }, zero, zero, false, 0, 0,
     one},
    {"hardswish", [](double x, double) { return x * (clip(x + 3, 0, 6) / 6); }, zero, one, false, 0,
     0, one},
    {"leaky_relu", [](double x, double slope) { return x > 0 ? x : slope * x; },
     [](double slope) { return slope; }, one, true, -kSize, kSize, one},
    {"logsigmoid", [](double x, double) { return -softplus(-x, 1.0); }, one, zero, false, 0, 0,
     one},
    {"mish", [](double x, double) { return x * std::tanh(softplus(x, 1.0)); }, zero, one, false, 0,
     0, one},
    {"selu", [](double x, double) { return kSeluScale * elu(x, kSeluAlpha); }, zero,
     [](double) { return kSeluScale; }, false, 0, 0, one},
    {"sigmoid", sigmoid, zero, zero, false, 0, 0, one},
    {"silu", [](double x, double) { return x * sigmoid(x, 0); }, zero, one, false, 0, 0, one},
    {"softplus", softplus, zero, one, true, 1 / kSize, kSize, [](double beta) { return 1 / beta; }},
    {"tanh", [](double x, double) { return std::tanh(x); }, zero, zero, false, 0, 0, one},
};

}  // namespace

const KnownFunction* function_named(const std::string& name) {
  for (const KnownFunction& function : kFunctions) {
    if (name == function.name) return &function;
  }
  return nullptr;
}

IntervalTable table_of(const KnownFunction& function, double parameter) {
  const double stretch = std::exp2(std::ceil(std::log2(function.stretch(parameter))));
  const double low = -kReach * stretch, step = 2 * kReach * stretch / kIntervals;
  IntervalTable table = {static_cast<float>(low), static_cast<float>(step), {}, {}, {}};
  for (int i = 0; i < kIntervals; ++i) {
    const double x = low + step * i;
    double first = function.of(x, parameter);
    const double middle = function.of(x + 0.5 * step, parameter);
    const double last = function.of(x + step, parameter);
    double slope = (4 * middle - 3 * first - last) / step;
    double curve = 2 * (first - 2 * middle + last) / (step * step);
    // The ends are straight lines through the next interval.
    if (i == 0 || i == kIntervals - 1) {
      slope = i == 0 ? function.left(parameter) : function.right(parameter);
      curve = 0.0;
    }
    if (i == 0) first = last - step * slope;
    table.value.push_back(static_cast<float>(first));
    table.slope.push_back(static_cast<float>(slope));
    table.curve.push_back(static_cast<float>(curve));
  }
  return table;
}

float IntervalTable::operator()(float x) const {
  const float place = (x - low) * (1.0f / step);
  const float last = static_cast<float>(kIntervals - 1);
  const int i = static_cast<int>(std::min(std::max(place, 0.0f), last));
  const std::size_t at = static_cast<std::size_t>(i);
  const float d = x - (low + static_cast<float>(i) * step);
  return value[at] + d * (slope[at] + d * curve[at]);
}

double IntervalTable::largest(double bound) const {
  double most = 0.0;
  const auto take = [&](double x) {
    most = std::max(most, std::abs(static_cast<double>((*this)(static_cast<float>(x)))));
  };
  take(-bound), take(bound);
  for (int i = 0; i <= kIntervals; ++i) {
    const double knot = static_cast<double>(low) + static_cast<double>(step) * i;
    if (std::abs(knot) <= bound) take(knot);
  }
  // Between two knots it can be larger by what a parabola rises, and by roundings.
  return 1.01 * most;
}

std::vector<float> of_codes(const KnownFunction& function, double parameter, double scale,
                            int zero) {
  std::vector<float> found;
  for (int byte = 0; byte < 256; ++byte) {
    const double x = scale * (static_cast<double>(byte) - zero);
    found.push_back(static_cast<float>(function.of(x, parameter)));
  }
  return found;
}

}  // namespace rsquant::packed
