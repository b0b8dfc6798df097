// What Python sees of a program: each operation adds its method, with named arguments. What a user
// can get wrong was checked in rsquant/packed, with messages that say what to do; here types hold.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ops/tables.h"
#include "program.h"

namespace nb = nanobind;

namespace rsquant {

template <class T, int Dimensions>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;

using Pair = std::array<int, 2>;  // height and width

// Throws if it is unknown, or if this machine cannot use it.
const Isa& isa_named(const std::string& name);

constexpr std::int64_t kAnySum = std::int64_t{1} << 31;  // what steps that are no convolution have

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

// The windows of an axis as numbers, (n, 2): see sampling.h. Throws unless each of `count` windows
// has pixels and lies on a side of so many pixels.
std::vector<int> checked_spans(const Array<const std::int32_t, 2>& spans, int count, int side);

// A program, and the Python objects that it points to.
class BoundProgram {
 public:
  BoundProgram(const std::string& isa, std::shared_ptr<Workspace> workspace)
      : program(isa_named(isa), std::move(workspace)) {}

  Program program;
  std::vector<std::shared_ptr<void>> kept;
  std::vector<nb::object> objects;
  bool finished = false;
};

using ProgramClass = nb::class_<BoundProgram>;

// One per operation, in the file of its name.
void bind_tables(nb::module_& m);
void bind_byte_tables(nb::module_& m);
void bind_conv(nb::module_& m, ProgramClass& program);
void bind_map(ProgramClass& program);
void bind_max_pool(ProgramClass& program);
void bind_average_pool(ProgramClass& program);
void bind_linear(ProgramClass& program);
void bind_byte_average(ProgramClass& program);
void bind_byte_linear(ProgramClass& program);
void bind_concat(ProgramClass& program);
void bind_function(ProgramClass& program);
void bind_binary(ProgramClass& program);
void bind_channels(ProgramClass& program);
void bind_average_windows(ProgramClass& program);
void bind_pad(ProgramClass& program);
void bind_flatten(ProgramClass& program);
void bind_resize(ProgramClass& program);

}  // namespace rsquant
