// Winograd's convolutions 3x3, stride 1, exact in integers: what this instruction set has of them.
//
//   AVX-512 VNNI             winograd   F(2x2, 3x3) in bytes
//   AVX2, AVX-512 without    winograd   F(4x4, 3x3) in 16-bit words
//                            winograd6  F(6x6, 3x3) in 16-bit words, for maps it fits
//   others                   none

#if defined(__AVX512VNNI__)

#include "winograd_bytes.h"

namespace rsquant {
namespace RSQUANT_ISA {

extern const ConvKernel winograd;

const ConvKernel winograd = winograd_bytes("winograd2");

}  // namespace RSQUANT_ISA
}  // namespace rsquant

#elif defined(__AVX2__)

#include "winograd_words.h"

namespace rsquant {
namespace RSQUANT_ISA {

extern const ConvKernel winograd;
extern const ConvKernel winograd6;

const ConvKernel winograd = winograd_words<F4>("winograd4");
const ConvKernel winograd6 = winograd_words<F6>("winograd6");

}  // namespace RSQUANT_ISA
}  // namespace rsquant

#endif
