// Elementwise functions as tables: rsquant/packed/functions.py. Values are computed by the system's
// mathematical library in float64, as Python's are.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace rsquant::packed {

constexpr int kIntervals = 1280;

struct KnownFunction {
  const char* name;
  double (*of)(double x, double parameter);
  // The slope of its asymptote at -inf and at +inf.
  double (*left)(double parameter);
  double (*right)(double parameter);
  bool has_parameter;
  double low, high;  // the range of the parameter
  // How much wider than 1 it is in x.
  double (*stretch)(double parameter);
};

// Null where there is none of that name.
const KnownFunction* function_named(const std::string& name);

struct IntervalTable {
  float low, step;
  std::vector<float> value, slope, curve;  // (kIntervals,)

  float operator()(float x) const;
  // At least the largest size of its values where |x| <= bound.
  double largest(double bound) const;
};
IntervalTable table_of(const KnownFunction& function, double parameter);

// The function of every byte of a quantizer's codes, f(scale (byte - zero)): (256,).
std::vector<float> of_codes(const KnownFunction& function, double parameter, double scale,
                            int zero);

}  // namespace rsquant::packed
