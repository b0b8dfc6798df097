// What this instruction set has, in one place for the dispatcher.

#include "table.h"

#include "simd.h"

namespace rsquant {
namespace RSQUANT_ISA {

extern const Kernels kernels;
extern const Pointwise pointwise;
extern const Sampling sampling;
extern const Elementwise elementwise;
extern const Peak peak;
extern const Resample resample;
extern const ConvKernel depthwise;
extern const ConvKernel image;
#if defined(RSQUANT_IMAGE_BYTES)
extern const ConvKernel image_bytes;
#endif
extern const ConvKernel direct;
extern const ConvKernel direct_float;
extern const ConvKernel direct_words;
#if defined(RSQUANT_BITPLANES)
extern const ConvKernel bitplanes;
#endif
#if defined(RSQUANT_LOOKUP)
extern const ConvKernel lookup;
#endif
#if defined(__AVX2__)
extern const ConvKernel winograd;
#if !defined(__AVX512VNNI__)
extern const ConvKernel winograd6;
#endif
#endif

// The first eligible one is used where nothing has been measured.
const IsaTable table = {kernels,
                        pointwise,
                        sampling,
                        elementwise,
                        peak,
                        resample,
#if defined(RSQUANT_WORD_LEVELS)
                        true,
#else
                        false,
#endif
                        {
                            &depthwise,
#if defined(RSQUANT_IMAGE_BYTES)
                            &image_bytes,
#endif
                            &image,
#if defined(RSQUANT_LOOKUP) && defined(__AVX2__)
                            &lookup,
#endif
                            &direct,
#if defined(__AVX2__)
                            &winograd,
#if !defined(__AVX512VNNI__)
                            &winograd6,
#endif
#endif
#if defined(RSQUANT_LOOKUP) && !defined(__AVX2__)
                            &lookup,
#endif
#if defined(RSQUANT_BITPLANES)
                            &bitplanes,
#endif
                            &direct_words,
                            &direct_float,
                        }};

}  // namespace RSQUANT_ISA
}  // namespace rsquant
