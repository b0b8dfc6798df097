// Loops are compiled for each number of thresholds that levels have: L - 1 of 2, 4, 8 and 16
// levels.
#pragma once

#include "conv.h"
#include "simd.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Calls as<thresholds>().
template <class As>
[[gnu::always_inline]] inline void as_compiled(int thresholds, const As& as) {
  switch (thresholds) {
    case 1:
      return as.template operator()<1>();
    case 3:
      return as.template operator()<3>();
    case 7:
      return as.template operator()<7>();
    default:
      return as.template operator()<kMaxThresholds>();
  }
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
