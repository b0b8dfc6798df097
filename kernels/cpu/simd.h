// Vectors of the instruction set a file is compiled for: the same names and meanings in every
// simd_*.h, so that an algorithm is written once.
//
//   kLanes                     32-bit lanes of a vector
//   Ints, Floats               vectors of int32 (or of bytes, by use) and of float32
//   load, store, broadcast, add, subtract, multiply, largest, smallest, to_float
//   multiply_sign(a, s)        s = +1 or -1 in each lane
//   and_greater(a, b, v)       v where a > b, else 0
//   round(v)                   to the nearest integer, halves to even; |v| < 2^31
//   store_bytes(to, v)         low bytes of 16 values in 16 / kLanes vectors
//   Shorts                     16 numbers of 16 bits: to_shorts (of 16 / kLanes vectors),
//                              spread16, widen16 (of 16 bytes in memory), largest, smallest;
//                              add: what leaves 16 bits stays beyond the range of bytes
//   ByteVector                 kAtOnce times 16 bytes: narrow (of kAtOnce Shorts, saturated),
//                              repeat (of 16 bytes), part (16 of them)
//   ByteDot, WordDot           how products of bytes, and of 16-bit words, are summed
//   widen_bytes, multiply_add16, add_to    2 * kLanes bytes to 16 bits; sum + a * b in 16 bits;
//                              16-bit values added to 32-bit ones in memory
//   decode32                   weight levels from bit planes
//   kTileVectors, kTilePixels  accumulators of a tile that fit the registers
//
// Where counting bits pays or is wanted for tests, RSQUANT_BITPLANES is defined and there are
//
//   multiply                   of int32, modulo 2^32
//   BitDot                     counts of common bits: a 64-bit lane for each of kChannels channels;
//                              kPixels pixels of 16 channels fit the registers
//     step(sum, a, w)          sum + bits of a & w; kSteps times at most
//     weigh(acc, sums, f)      acc + f * counts, kLanes channels; |f| <= 2 * 127 * 127
//   split64                    64 bytes to a word for each bit of their codes
//
// RSQUANT_WORD_LEVELS is defined where levels are compared in 16 bits (packed_words.h, ranks.h),
// RSQUANT_WIDE_BYTES where the registers for it have 512 bits, RSQUANT_TAP_ROWS where
// depthwise_rows.h is compiled.
//
// Where there is a look-up in 16 bytes or 64, RSQUANT_LOOKUP is defined and there is `Lookup`, for
// lookup.cpp:
//
//   kChannels                  of a table: 4 or, in 64 bytes, 6
//   kTables, kMostTables       tables of a step: as few, as many
//   kFewestOfBytes             that a byte must hold for sums to stay bytes (of six channels)
//   kTableBytes, kRowBytes     of a table; of a row of bits that become 16 or 32 tables
//   kVectors                   of a block: kVectors * 2 kLanes output channels
//   kPairPixels, kSinglePixels pixels of a block that fit the registers, of two planes and of one
//   kBytePixels                the same of two planes where only sums of bytes are in registers;
//                              0: no such tiles
//   kShortRow                  longest row of output that is cut into tiles of its own, see
//                              `ends_apart`; 0: none is
//   kHalf..                    the same of a block of which no more than the first half exists
//   table, pick, add_bytes     16 bytes to each 16 of a vector; the bytes at some indices; a + b
//   all_first                  four look-ups come before what is done with any (of six channels)
//   pair_place(o, plane)       byte of an output channel, of 2 kLanes, in a vector of two planes
//   weigh(sum, bytes, p)       16-bit sums + p_0 byte_0 + p_1 byte_1
//   first_words, last_words    16-bit sums of output channels 0 .. kLanes - 1, and of the others
//   first_signed, last_signed  the same of sums with a sign
//   word_place(o)              where the sum of an output channel, of 2 kLanes, is in a vector
//   multiply16, add16, spread16    of 16-bit numbers modulo 2^16
//   single_place(o), count     the same of a plane: 4 kLanes channels, Single their 16-bit sums
//   count_often                count, for loops that do it at each step
//   first_of, last_of          of these, 16-bit sums of 2 kLanes channels, in word_place's order
//   kTogether, make_tables     tables that are made at once: (bytes, out) 16 bytes to 4; of six
//                              channels (bytes, channels, places, out, count) to 4 or fewer
//   Places, places()           what make_tables keeps in registers for many pixels
//   sum_bytes(bytes, count)    the sum of some bytes
//   multiply32                 products of int32
//   load_rows, interleave_low, interleave_high, exclusive, low_bits, high_bits    rows to columns
//   load_ends, first_bits      of six channels: the last bytes of a row, the last bits of an index
//   six_bits                   columns of bytes to columns of indices of six channels
#pragma once

#include <cstdint>

namespace rsquant {

// The codes of the levels of a quantizer; level 0 has code 0.
struct Codes {
  int planes;  // bits of a code
  int count;   // other levels
  std::uint8_t level[15], code[15];
  std::uint8_t of[128];  // code of each byte; 0 where the byte is no level
};

// 16 bytes, as a whole group of channels has them: GCC's vectors are good for these everywhere.
typedef std::uint8_t Bytes16 __attribute__((vector_size(16)));
typedef std::int8_t SignedBytes16 __attribute__((vector_size(16)));

}  // namespace rsquant

#define RSQUANT_STRING_(x) #x
#define RSQUANT_STRING(x) RSQUANT_STRING_(x)
#include RSQUANT_STRING(RSQUANT_SIMD)
#undef RSQUANT_STRING
#undef RSQUANT_STRING_

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kGroup = 16;  // channels that are finished together
constexpr int kVectors = kGroup / kLanes;

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
