// Weight levels from either form that they come in.
#pragma once

#include <cstring>

#include "conv.h"
#include "simd.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// 32 levels of output channel o, from flat tap i on (a multiple of 32) of n.
inline void levels_at(const ConvShape& s, const ConvWeights& w, int o, std::int64_t i,
                      std::int64_t n, std::int8_t* out) {
  if (w.levels != nullptr) {
    std::memcpy(out, w.levels + o * n + i, static_cast<std::size_t>(n - i < 32 ? n - i : 32));
    return;
  }
  if (w.words != nullptr) {  // the image's, where they fit a byte
    for (std::int64_t k = 0; k < 32 && i + k < n; ++k) {
      out[k] = static_cast<std::int8_t>(w.words[o * n + i + k]);
    }
    return;
  }
  std::int8_t worth[4];
  std::uint32_t planes[4];
  for (int k = 0; k < w.bits; ++k) {
    // Modulo 256, like the sums: only levels need to fit.
    worth[k] = static_cast<std::int8_t>(w.basis[o * w.bits + k]);
    const std::int64_t row = static_cast<std::int64_t>(k) * s.out_channels + o;
    std::memcpy(&planes[k], w.planes + row * w.plane_bytes + i / 8, 4);
  }
  decode32(planes, w.bits, w.offset[o], worth, out);
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
