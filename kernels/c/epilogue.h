// What happens to a result before it is stored: rsquant/packed/ops/epilogue.py.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "builder.h"

namespace rsquant::packed {

// The fields that all epilogues have.
struct EndingFields {
  std::optional<std::string> norm;
  double eps;
  std::optional<int> add;
  bool relu;
  std::optional<double> clip;
  std::optional<int> keep, codes;
  std::optional<std::string> codes_norm;
  double codes_eps;
  bool codes_relu;
  std::optional<double> codes_clip;
  std::optional<int> quantizer;
};
// keeps: the name of the field `keep`.
EndingFields read_ending(Fields& fields, const char* keeps);
double read_eps(Fields& fields, const char* name, bool has_norm);

// An epilogue at a size, folded.
struct Ending {
  virtual ~Ending() = default;
  // As the kernels compare it. correction: (O,), by which accumulators are too large; most: as of
  // `Tables`.
  virtual Tables tables(const std::vector<std::int32_t>& correction, std::int64_t most) const = 0;
};
using EndingPointer = std::shared_ptr<const Ending>;

// v = scale * x + shift + add; keep: min(max(v, 0) if relu, clip); codes: see `Epilogue` in Python.
struct FloatEnding : Ending {
  std::vector<float> scale, shift;
  std::optional<int> add, keep, codes;
  bool relu;
  double clip;
  bool integer;                           // thresholds are those of accumulators
  std::vector<std::int32_t> accumulated;  // thresholds (L - 1, O) if `integer`
  std::vector<float> compared;            // else these
  std::vector<int> sign;
  std::vector<std::uint8_t> levels;

  Tables tables(const std::vector<std::int32_t>& correction, std::int64_t most) const override;
};

// A result x, such that scale x + shift is it before the norm; reach, usual: (O,), the largest size
// of x that is possible, and that is to be expected.
struct Result {
  Affine affine;
  Doubles reach, usual;
  Pair pixels;
  bool integers;  // x is an accumulator
};

// Of floats.
class Epilogue {
 public:
  static Epilogue read(Fields& fields);
  void check(Checker& checker, int channels) const;
  EndingPointer build(Builder& builder, Result result) const;

  EndingFields fields;

 private:
  void fold_codes(const Builder& builder, const Affine& affine, FloatEnding& ending) const;
};

// Notes the codes that an ending writes.
void check_codes(Checker& checker, const EndingFields& fields, int channels);
// The value added, which must be of the kind that is kept; null where none is.
const ValueSpec* check_added(const Checker& checker, const EndingFields& fields, What kept,
                             int channels);
// Refuses an addition of another map's size.
void check_added_size(const Builder& builder, const EndingFields& fields, Pair pixels);

// The largest size of a value that `clip` limits from above.
double clipped(double bound, std::optional<double> clip);

}  // namespace rsquant::packed
