// Loops whose time is the bound of a convolution's.
#pragma once

#include <cstdint>

namespace rsquant {

// Each runs `iterations` times and returns the products that were computed.
struct Peak {
  std::int64_t (*bytes)(std::int64_t iterations);  // of `direct`
  std::int64_t (*words)(std::int64_t iterations);  // of `image` and `direct_words`
  std::int64_t (*bits)(std::int64_t iterations);   // of `bitplanes`, 2-bit times 2-bit; 0: none
  // Of `lookup`, two planes of weights, with as many tables a step as there can be: with VBMI
  // three, where inputs above 14 have two (0.95 of the rate). 0: none.
  std::int64_t (*pair)(std::int64_t iterations);
  std::int64_t (*plane)(std::int64_t iterations);  // of `lookup`, one plane; 0: none
  // Of `lookup`, two planes, where bytes hold several steps: for inputs up to this limit; 0: none.
  std::int64_t (*sums)(std::int64_t iterations);
  int sums_limit;
};

}  // namespace rsquant
