// The tables of an epilogue in a program's own memory.
#pragma once

#include <cstdint>
#include <optional>

#include "program.h"

namespace rsquant {

// Tables per channel as they are given, (O,) each; copied and filled up.
struct EpilogueTables {
  const std::int32_t* correction;
  const float* scale;
  const float* shift;
  int thresholds;            // L - 1, 0 without codes
  const void* threshold;     // (L - 1, O), 4 bytes each
  const std::int32_t* step;  // (L - 1,)
  const std::int32_t* base;
  const std::int32_t* sign;
  bool integer;
  float low, high;
  std::optional<int> add, keep, codes;  // values
};

// The same of a result that becomes bytes: arrays of the ByteEpilogue are (O,) or (L - 1, O) each.
struct ByteEpilogueTables {
  ByteEpilogue given;
  std::optional<int> add, keep, codes;  // values
};

// Filled up so that a kernel may load whole vectors of any block of channels.
class Tables {
 public:
  // most: no accumulator is larger, or smaller than -most.
  Tables(const EpilogueTables& given, int channels, std::int64_t most);
  Tables(const ByteEpilogueTables& given, int channels);
  // Declares the values that it reads and writes. With `in_place` the sum may take the place of the
  // value added.
  void declare(Program& program, bool in_place = true) const;
  // Drops tables that no kernel of an instruction set reads: two thirds of those of an integer
  // network, at each size.
  void keep_read(const IsaTable& isa);
  // Where they lie now; also fills the borders of bytes and codes.
  Epilogue bind(const Program& program) const;
  // Whether it is that value that is added.
  bool adds(int value) const { return add_ == value; }
  // Height and width of what it writes, and that it has `channels`.
  const Value& output(const Program& program) const;

 private:
  Epilogue bind_floats(const Program& program) const;
  Epilogue bind_bytes(const Program& program) const;
  Kind kept() const { return epilogue_.to_bytes ? Kind::codes : Kind::real; }

  int channels_;
  std::optional<int> add_, keep_, codes_;
  Buffer memory_, words_;
  Epilogue epilogue_ = {};
};

}  // namespace rsquant
