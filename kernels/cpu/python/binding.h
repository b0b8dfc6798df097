// What Python sees of a program: each operation is a method, with named arguments. What a user can
// get wrong was checked in rsquant/packed, with messages that say what to do; here types hold.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "program.h"
#include "steps/steps.h"

namespace nb = nanobind;

namespace rsquant {

template <class T, int Dimensions>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;

// Throws if it is unknown, or if this machine cannot use it.
const Isa& isa_named(const std::string& name);

// An epilogue's tables as Python gives them, of either kind.
struct GivenTables {
  virtual ~GivenTables() = default;
  // Throws unless types and sizes are those of so many channels. most: as of `Tables`.
  virtual Tables tables(int channels, std::int64_t most) const = 0;
};

// Of a result that becomes floats, codes or both: conv.h's Epilogue.
struct GivenFloatTables : GivenTables {
  Array<const std::int32_t, 1> correction;
  Array<const float, 1> scale, shift;
  nb::object threshold;
  Array<const std::int32_t, 1> step, base, sign;
  bool integer;
  float low, high;
  std::optional<int> add, keep, codes;

  Tables tables(int channels, std::int64_t most) const override;
};

// Of a result that becomes bytes: conv.h's ByteEpilogue.
struct GivenByteTables : GivenTables {
  Array<const std::int32_t, 1> bias;
  Array<const float, 1> factor;
  int low, high, offset, least, most;
  Array<const std::int8_t, 2> threshold;
  Array<const std::uint8_t, 2> step;
  Array<const std::uint8_t, 1> base;
  std::optional<int> add, keep, codes;

  Tables tables(int channels, std::int64_t most) const override;
};

// All numbers of an array, in C order.
template <class Given>
auto numbers(const Given& array) {
  return std::span(array.data(), array.size());
}

// A program, and the Python objects that it points to.
class BoundProgram {
 public:
  BoundProgram(const std::string& isa, std::shared_ptr<Workspace> workspace)
      : program(isa_named(isa), std::move(workspace)) {}

  Program program;
  std::vector<nb::object> objects;
  bool finished = false;
};

using ProgramClass = nb::class_<BoundProgram>;

void bind_tables(nb::module_& m);
void bind_byte_tables(nb::module_& m);
void bind_conv(nb::module_& m, ProgramClass& program);
void bind_steps(ProgramClass& program);

}  // namespace rsquant
