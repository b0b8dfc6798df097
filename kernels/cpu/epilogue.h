// The end of every convolution: accumulators to float values, levels and bytes. See conv.h.
#pragma once

#include "conv.h"
#include "simd.h"

namespace rsquant {
namespace RSQUANT_ISA {

constexpr int kMostPixels = 16;  // whose accumulators are collected before they are finished

// Applies an epilogue to `count` output pixels that follow each other in row order from (y, x) on.
// acc: `stride` accumulators from pixel to pixel. Channels first .. first + 15; only those below
// `end` are written.
void finish(const Epilogue& e, const ConvShape& shape, const std::int32_t* acc, int stride,
            int count, int y, int x, int first, int end);

// The same of `channels` channels from `first` on, a multiple of 16, those below `end`.
void finish_channels(const Epilogue& e, const ConvShape& shape, const std::int32_t* acc, int stride,
                     int count, int y, int x, int first, int channels, int end);

#if defined(RSQUANT_WORD_LEVELS)
// The same of `channels` channels, sums of which have 16 bits and the order of `Lookup::word_place`
// within 2 kLanes; and whether it can do it.
bool takes_narrow(const Epilogue& e, int channels);
void finish_narrow(const Epilogue& e, const ConvShape& shape, const std::int16_t* sums, int stride,
                   int count, int y, int x, int first, int channels);
#endif

#if defined(RSQUANT_WIDE_BYTES)
constexpr int kWideGroup = 64;

// Whether `finish_wide` can do it.
inline bool takes_wide(const Epilogue& e) { return e.to_bytes || e.words.tables != nullptr; }

// The same of 64 channels. second: where the accumulators of the last 32 are, from those of the
// first on.
void finish_wide(const Epilogue& e, const ConvShape& shape, const std::int32_t* acc, int stride,
                 std::int64_t second, int count, int y, int x, int first);
#endif

}  // namespace RSQUANT_ISA
}  // namespace rsquant
