// What the average poolings share: rsquant/packed/ops/avgpool2d.py and byte_average.py.
#pragma once

#include <optional>
#include <string>

#include "builder.h"

namespace rsquant::packed {

// The bytes that an average of bytes or codes makes.
struct ByteOutput {
  std::string scale;
  int zero;

  // Of an average's fields; none where it is one of floats.
  static std::optional<ByteOutput> read(Fields& fields);
  // Checks what is averaged, and notes what is written.
  void check(Checker& checker, int input, int output) const;
};

// An average's input and output, at a size.
struct Averaging {
  int input, output;
  SpanTable rows, columns;
  Doubles divisors;  // (rows, columns), integers of at least 1
};
// Sums of windows of floats over `divisors`; writes the value.
void build_average(Builder& builder, Averaging of);
// The mean of each window of bytes or codes, in bytes; writes its value.
void build_byte_average(Builder& builder, const ByteOutput& bytes, Averaging of);

// Pixels of each window, (rows, columns).
Doubles pixels_of(const SpanTable& rows, const SpanTable& columns);

}  // namespace rsquant::packed
