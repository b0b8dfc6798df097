// From maps of logits to what is wanted of each pixel of an image: rsquant/runtime/maps.py.
#pragma once

#include <cstdint>

#include "fields.h"

namespace rsquant::packed {

// Maps (classes, *map) at another height and width, bilinear, corners not aligned; the maps
// themselves where they have that size already.
void resized_maps(const float* maps, int classes, Pair map, Pair size, float* out);

// The class of each pixel, that of the largest logit of `resized_maps`, the first of several.
void likeliest_classes(const float* maps, int classes, Pair map, Pair size, std::uint16_t* out);

}  // namespace rsquant::packed
