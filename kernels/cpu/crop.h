// A photograph resized and cut as evaluation does it: see rsquant/crop.py for what is cut out, and
// crop.cpp for the arithmetic, which is that of torch's antialiased bilinear resize of bytes.
#pragma once

#include <cstdint>

#include "resample.h"

namespace rsquant {

// Some pixels of a resized axis: [start, start + count) of `resized`, made of `length` pixels.
struct Axis {
  int length, resized, start, count;
};

// Pixels R G B, a byte each; `row_bytes` from row to row, which may be negative. Only what lies
// inside the two axes' lengths is read.
struct Photograph {
  const std::uint8_t* pixels;
  std::int64_t row_bytes;
};

// out: three planes of (rows.count, columns.count) bytes. All lengths and counts are 1 or more, and
// start + count <= resized. May throw std::bad_alloc.
void crop(const Resample& resample, const Photograph& from, const Axis& rows, const Axis& columns,
          std::uint8_t* out);

}  // namespace rsquant
