// Which tiles a block of a convolution by tables has. See lookup.cpp.
#pragma once

#include "lookup_tile.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Pixels of a tile: as many as there are registers for; of a block of which no more than the first
// half exists there may be more.
constexpr int kPairPixels = Lookup::kPairPixels, kSinglePixels = Lookup::kSinglePixels;
constexpr int kHalfPairPixels = Lookup::kHalfPairPixels;
constexpr int kHalfSinglePixels = Lookup::kHalfSinglePixels;

// Output pixels, in tiles of one size: where their windows begin, and S. Tiles follow each other in
// one call: of few steps, a call for each would take longer than its products.
struct Pixels {
  const std::uint8_t* const* window;
  const std::int32_t* sum;
  int first, tiles;
};

// Kinds of tiles.
enum class Tile { kPair, kPairBytes, kSingle, kSingleBytes };

// Not inlined: its loops need every register.
template <Tile kTile, int P, int V, int T, bool kNarrow, bool kEnds>
[[gnu::noinline]] void add_tiles(const ConvShape& s, const Layout& layout, const Pixels& pixels,
                                 const Part& part, std::int32_t* acc) {
  for (int tile = 0; tile < pixels.tiles; ++tile) {
    const int number = pixels.first + tile;
    const std::int64_t ahead =
        part.ahead != 0 && number < 4 ? part.ahead + number % 2 * kAheadBytes : 0;
    const std::uint8_t* const* window = pixels.window + tile * P;
    const std::int32_t* sum = pixels.sum + tile * P;
    std::int32_t* to = acc + tile * P * kPixelStride<kNarrow>;
    if constexpr (kTile == Tile::kPair) {
      add_pair_tile<P, V, T, kNarrow>(s, layout, window, sum, part, ahead, to);
    } else if constexpr (kTile == Tile::kPairBytes) {
      add_byte_tile<P, V, T, kNarrow, kEnds>(s, layout, window, sum, part, ahead, to);
    } else {
      add_single_tile<P, V, T, kTile == Tile::kSingleBytes, kNarrow, kEnds>(s, layout, window, sum,
                                                                            part, to);
    }
  }
}

typedef void (*Add)(const ConvShape&, const Layout&, const Pixels&, const Part&, std::int32_t*);

// Tiles of `pixels` pixels, P at most, whose ends may leave out taps. (Of single planes one loop is
// for all: GCC keeps its sums in registers, but not those of the loop without ends.)
template <Tile kTile, int P, int V, int T>
inline Add tiles_of(int pixels, bool narrow, bool ends) {
  if constexpr (P > 1) {
    if (pixels < P) return tiles_of<kTile, P - 1, V, T>(pixels, narrow, ends);
  }
  constexpr bool kAlways = Lookup::kShortRow > 0 && kTile == Tile::kSingleBytes;
  constexpr bool kEver = kAlways || (Lookup::kShortRow > 0 && kTile == Tile::kPairBytes);
  if (kAlways || (kEver && ends)) {
    return narrow ? add_tiles<kTile, P, V, T, true, kEver>
                  : add_tiles<kTile, P, V, T, false, kEver>;
  }
  return narrow ? add_tiles<kTile, P, V, T, true, kAlways>
                : add_tiles<kTile, P, V, T, false, kAlways>;
}

// The tiles of a block, and how many pixels one has at most.
struct Tiles {
  Add (*add)(int pixels, bool narrow, bool ends);
  int most;
};

template <Tile kTile, int P, int V, int T>
constexpr Tiles kTilesOf = {tiles_of<kTile, P, V, T>, P};

// Of steps of T tables: of a pair of planes or one, of a block of which no more than the first half
// exists, or more.
template <int T>
inline Tiles pair_tiles(bool half) {
  return half ? kTilesOf<Tile::kPair, kHalfPairPixels, kHalfPair, T>
              : kTilesOf<Tile::kPair, kPairPixels, kPairVectors, T>;
}
template <Tile kTile, int T>
inline Tiles single_tiles(bool half) {
  return half ? kTilesOf<kTile, kHalfSinglePixels, kHalfSingle, T>
              : kTilesOf<kTile, kSinglePixels, kSingleVectors, T>;
}

template <class Lookup = Lookup>
inline Tiles tiles_for(const Steps& steps, bool pair, bool half) {
  const bool bytes = steps.together > 1;
  if constexpr (Lookup::kChannels == 6) {
    if (bytes && pair) {
      return half ? kTilesOf<Tile::kPairBytes, Lookup::kHalfBytePixels, kHalfPair, 1>
                  : kTilesOf<Tile::kPairBytes, Lookup::kBytePixels, kPairVectors, 1>;
    }
    if (bytes) return single_tiles<Tile::kSingleBytes, 1>(half);
    if (steps.tables == 2) return pair ? pair_tiles<2>(half) : single_tiles<Tile::kSingle, 2>(half);
    return pair ? pair_tiles<3>(half) : single_tiles<Tile::kSingle, 3>(half);
  } else {
    constexpr int kTables = Lookup::kTables;
    if (!pair) {
      return bytes ? single_tiles<Tile::kSingleBytes, kTables>(half)
                   : single_tiles<Tile::kSingle, kTables>(half);
    }
    if constexpr (Lookup::kBytePixels > 0) {
      if (bytes && !half) {
        return kTilesOf<Tile::kPairBytes, Lookup::kBytePixels, kPairVectors, kTables>;
      }
    }
    return pair_tiles<kTables>(half);
  }
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
