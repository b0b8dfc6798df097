// What this machine can do at most, on some threads at once: the bounds of a step's time.
#pragma once

#include <cstdint>

#include "peak.h"

namespace rsquant {

// 1e9 products a second of a loop on registers, all threads together; the best of some runs.
double products_per_ns(std::int64_t (*loop)(std::int64_t iterations), int threads);

// 1e9 bytes a second, read and written, of copying half a block of memory to its other half again
// and again; the best of some runs.
double bytes_copied_per_ns(std::int64_t block, int threads);

}  // namespace rsquant
