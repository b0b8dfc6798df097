// Everything an instruction set provides.
#pragma once

#include "conv.h"
#include "elementwise.h"
#include "kernels.h"
#include "peak.h"
#include "pointwise.h"
#include "resample.h"
#include "sampling.h"

namespace rsquant {

constexpr int kMostConvKernels = 9;

struct IsaTable {
  const Kernels& kernels;
  const Pointwise& pointwise;
  const Sampling& sampling;
  const Elementwise& elementwise;
  const Peak& peak;
  const Resample& resample;
  bool word_levels;                          // kernels take WordLevels wherever there are some
  const ConvKernel* conv[kMostConvKernels];  // null after the last
};

// One entry per instruction set any platform knows; CMakeLists.txt says which are compiled.
#define RSQUANT_ISAS(X) X(scalar) X(avx2) X(avx512) X(avx512vnni) X(neon) X(neondot)

#define RSQUANT_DECLARE(isa)   \
  namespace isa {              \
  extern const IsaTable table; \
  }
RSQUANT_ISAS(RSQUANT_DECLARE)
#undef RSQUANT_DECLARE

}  // namespace rsquant
