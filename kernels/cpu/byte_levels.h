// Levels of bytes: see conv.h's ByteEpilogue.
#pragma once

#include <cstring>

#include "simd.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

template <class T>
inline Bytes16 load16(const T* from) {
  Bytes16 v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}
inline void store16(std::uint8_t* to, Bytes16 v) { std::memcpy(to, &v, sizeof(v)); }

// Levels of bytes: Bytes16 or ByteVector.
template <int T, class Signed, class Bytes>
inline Bytes levels_of(Bytes byte, const Signed* threshold, const Bytes* step, Bytes base) {
  const Signed compared = (Signed)(byte ^ 128);
  for (int k = 0; k < T; ++k) base += (Bytes)(compared > threshold[k]) & step[k];
  return base;
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
