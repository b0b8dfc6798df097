// An operation of a packed file, before a size is known: rsquant/packed/ops has the same, one file
// for each, and says what they mean.
#pragma once

#include <memory>
#include <string>

#include "fields.h"

namespace rsquant::packed {

class Builder;
class Checker;
class Narrowing;

class Op {
 public:
  virtual ~Op() = default;
  // Checks tensors and inputs, and notes the values it writes, in their order. Throws FieldError.
  virtual void check(Checker& checker) const = 0;
  // The operation at a size: shape, fold, and note the values it writes. Throws Failure or
  // FieldError.
  virtual void build(Builder& builder) const = 0;
  virtual bool is_linear() const { return false; }
  // The operation with fewer channels, whose tensors it cuts to them; null where it stays as it is.
  // Throws FieldError. The whole network was checked.
  virtual std::shared_ptr<const Op> narrower(Narrowing& to) const;

  std::string name;
  const char* kind = "";
  int since = 1;  // the version of the format that has it
};

using OpPointer = std::unique_ptr<Op>;

// The operation of a step, but for its name. Throws UnsupportedOperation.
OpPointer read_op(const std::string& kind, Fields& fields);

// One for each, in ops/.
OpPointer read_conv(Fields& fields);
OpPointer read_map(Fields& fields);
OpPointer read_maxpool(Fields& fields);
OpPointer read_avgpool(Fields& fields);
OpPointer read_linear(Fields& fields);
OpPointer read_avgpool2d(Fields& fields);
OpPointer read_adaptive_avgpool(Fields& fields);
OpPointer read_adaptive_maxpool(Fields& fields);
OpPointer read_pad(Fields& fields);
OpPointer read_extend(Fields& fields);
OpPointer read_resize(Fields& fields);
OpPointer read_flatten(Fields& fields);
OpPointer read_concat(Fields& fields);
OpPointer read_function(Fields& fields);
OpPointer read_binary(Fields& fields);
OpPointer read_channels(Fields& fields);

}  // namespace rsquant::packed
