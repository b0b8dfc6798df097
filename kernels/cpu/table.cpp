// What this instruction set has, in one place for the dispatcher.

#include "table.h"

namespace rsquant {
namespace RSQUANT_ISA {

extern const Kernels kernels;
extern const Pointwise pointwise;
extern const ConvKernel direct;
extern const ConvKernel direct_words;
#if defined(RSQUANT_WINOGRAD)
extern const ConvKernel winograd;
#endif

// The first eligible one is used where nothing has been measured.
const IsaTable table = {
    kernels,
    pointwise,
    {
        &direct,
#if defined(RSQUANT_WINOGRAD)
        &winograd,
#endif
        &direct_words,
    }};

}  // namespace RSQUANT_ISA
}  // namespace rsquant
