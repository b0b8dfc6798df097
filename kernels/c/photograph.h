// From a photograph to what a network is given: rsquant/crop.py and rsquant/runtime/preprocess.py.
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace rsquant::packed {

// Short side to int(resolution / 0.875), bilinear with antialiasing, then the centre.
//   pixels  (height, width, 3), R G B
//   out     (3, resolution, resolution)
void evaluation_crop(const Isa& isa, const std::uint8_t* pixels, int height, int width,
                     int resolution, std::uint8_t* out);

// The whole photograph as a square, bilinear with antialiasing; arguments as of evaluation_crop.
void evaluation_square(const Isa& isa, const std::uint8_t* pixels, int height, int width,
                       int resolution, std::uint8_t* out);

}  // namespace rsquant::packed
