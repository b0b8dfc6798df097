// Vectors of the instruction set a file is compiled for: the same names and meanings in every
// simd_*.h, so that an algorithm is written once.
//
//   kLanes                     32-bit lanes of a vector
//   Ints, Floats               vectors of int32 (or of bytes, by use) and of float32
//   load, store, broadcast, add, subtract, multiply, largest, smallest, to_float
//   multiply_sign(a, s)        s = +1 or -1 in each lane
//   and_greater(a, b, v)       v where a > b, else 0
//   store_bytes(to, v)         low bytes of 16 values in 16 / kLanes vectors
//   ByteDot, WordDot           how products of bytes, and of 16-bit words, are summed
//   decode32                   weight levels from bit planes
//   kTileVectors, kTilePixels  accumulators of a tile that fit the registers
#pragma once

#define RSQUANT_STRING_(x) #x
#define RSQUANT_STRING(x) RSQUANT_STRING_(x)
#include RSQUANT_STRING(RSQUANT_SIMD)
#undef RSQUANT_STRING
#undef RSQUANT_STRING_
