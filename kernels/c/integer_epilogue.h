// An epilogue in integers: rsquant/packed/ops/integer_epilogue.py; docs/integer.md has the
// arithmetic.
#pragma once

#include <variant>

#include "epilogue.h"

namespace rsquant::packed {

// What becomes a byte: see `ByteEpilogue` in Python.
struct ByteEnding : Ending {
  Scaled scaled;
  int low, high;
  std::optional<int> add;
  int add_zero;
  int least, most, zero;
  std::optional<int> keep, codes;
  std::vector<std::int32_t> thresholds;  // (L - 1, O) of codes
  std::vector<int> sign;
  std::vector<std::uint8_t> levels;

  Tables tables(const std::vector<std::int32_t>& correction, std::int64_t most) const override;
};

class IntegerEpilogue {
 public:
  static IntegerEpilogue read(Fields& fields);
  void check(Checker& checker, int channels) const;
  // affine: such that scale n + shift is the result before the norm.
  EndingPointer build(Builder& builder, Affine affine, Pair pixels) const;
  // Of n = 64 (byte - zero), worth `scale` (O,) each.
  EndingPointer build_map(Builder& builder, const Doubles& scale, int zero, Pair pixels) const;

  EndingFields fields;

 private:
  EndingPointer build_bytes(Builder& builder, const Affine& affine, Pair pixels) const;
  EndingPointer build_levels(Builder& builder, const Affine& affine, Pair pixels) const;

  std::optional<int> branch_zero_, zero_;
  std::optional<std::string> scale_;
};

// Of either kind.
using AnyEpilogue = std::variant<Epilogue, IntegerEpilogue>;
AnyEpilogue read_any_epilogue(Fields& fields);

// A zero point of bytes, or null.
std::optional<int> read_zero(Fields& fields, const char* name);

}  // namespace rsquant::packed
