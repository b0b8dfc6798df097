// A packed network and an image size to a program: shaped and folded, ready to be bound to kernels.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "checker.h"
#include "fold.h"
#include "steps/steps.h"

namespace rsquant::packed {

// A value at a size.
struct ValueAt {
  What what;
  int channels, height, width;
  int fill;                // the byte that stands for 0
  std::vector<int> basis;  // of codes, ascending sizes

  Pair pixels() const { return {height, width}; }
};

// A convolution whose kernel is to be chosen, see ConvShape.
struct ConvNeed {
  std::string name;
  ConvShape form;
  ConvWeights source;
  int input;
  std::size_t step;  // number of its step
};

// What a convolution runs with.
struct ConvChoice {
  const ConvKernel* kernel;
  std::shared_ptr<Prepared> prepared;
};
using Choices = std::vector<ConvChoice>;  // of each ConvNeed

struct Folded {
  std::vector<ValueAt> values;  // the last are the logits
  std::vector<ConvNeed> convolutions;
  // In order: each adds a step.
  std::vector<std::function<void(Program&, const Choices&)>> steps;
};

// What operations are shaped and folded with; it knows the values written so far.
class Builder {
 public:
  Builder(const Packed& packed, int height, int width);
  // Throws FieldError (values of the file could overflow) or Failure (the size is none for it).
  Folded fold();

  // Notes the next value; floats with the largest size they can have, and are to have.
  void write(Pair pixels, double bound = 0.0, double expected = 0.0);
  void add(std::function<void(Program&, const Choices&)> step) {
    folded.steps.push_back(std::move(step));
  }

  const ValueAt& value(int number) const { return folded.values[static_cast<std::size_t>(number)]; }
  double bound(int number) const { return bounds[static_cast<std::size_t>(number)]; }
  double range(int number) const { return ranges[static_cast<std::size_t>(number)]; }
  const ValueSpec& spec(int number) const {
    return packed.values[static_cast<std::size_t>(number)];
  }
  const Quantizer& quantizer(int number) const {
    return packed.quantizers[static_cast<std::size_t>(number)];
  }
  const Tensor& tensor(const std::string& name) const { return packed.tensors.at(name); }

  // The scale of bytes at this size, of a tensor (S,).
  double byte_scale(const std::string& name) const;
  // Of codes or bytes: value = scale * (byte - zero).
  struct Unit {
    double scale;
    int zero;
  };
  Unit unit(int value) const;
  // A norm after scale x + shift, at this size.
  Affine normed(const std::optional<std::string>& name, double eps, Affine after) const;
  // The largest size to be expected behind a norm, for sizes without knowing it.
  double usual(const std::optional<std::string>& name, Doubles sizes) const;
  // Refuses values as large as this, where float32 ends.
  void finite(double bound) const;
  // Refuses slope n + shift in steps of `step` where it is as large, for |n| <= `largest`.
  void exact_floats(const Affine& of, double step, double largest = kSumLimit) const;

  [[noreturn]] void invalid(const std::string& what) const;
  [[noreturn]] void wrong_size(const std::string& what) const;
  [[noreturn]] void too_small() const;

  const Packed& packed;
  Blend rows;
  std::vector<double> bounds, ranges;  // by value
  Folded folded;

 private:
  std::string size() const;

  int height_, width_;
  std::string where_;
  std::int64_t elements_ = 0;
};

// Windows of the rows and of the columns of a pooling, with what lies outside of the map. Throws
// where there is none, or one has no pixel of the map.
struct PoolWindows {
  SpanTable rows, columns;
  Sides pads;
};
PoolWindows pooled(const Builder& builder, Pair map, const Padding& padding, Pair kernel,
                   Pair stride, Pair dilation, bool ceil_mode);

// max |v|.
double largest_size(const Doubles& values);

}  // namespace rsquant::packed
