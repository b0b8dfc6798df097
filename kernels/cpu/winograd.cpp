// Draft.
#if defined(__AVX2__)
#include "winograd_words.h"
#endif
