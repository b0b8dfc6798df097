// Transforms of Winograd's convolution in integers, 3 taps to 4 or to 6 outputs (AVX2).
//
// One dimension. F(m, 3) computes m outputs y_i = sum_k x_{i+k} w_k from m + 2 products: with
// points p_j, the last one infinity, u_j = w_0 + w_1 p_j + w_2 p_j^2 and fixed matrices A, B
//
//   y = A (u * v),  v = B x.
//
// The matrices hold fractions. All of them are moved into A: the rows of u and of B are scaled to
// the smallest integers, and A, which then has the denominator N, is multiplied by N:
//
//   N y = A' (u * v),   N = 24 for m = 4,  N = 360 for m = 6.
//
// Row i of A' still has a common factor 2^a_i; without it the row gives (N / 2^a_i) y_i. So
// `output` below computes odd * 2^kShift[i] * y_i, where odd = 3 for m = 4 and 45 for m = 6.
//
// Two dimensions: all of it once down the columns and once along the rows. The sums are then
// odd^2 * 2^(kShift[i] + kShift[j]) * y_ij.
//
// Modulo 2^32. Every step after the products is an addition or a multiplication by an integer, so
// it may be done modulo 2^32 and no intermediate value needs to fit. An odd factor is a unit there:
// multiplying with its inverse divides exactly. What is left, 2^k y with k <= 6, is a signed
// 32-bit number if |y| < 2^25, and an arithmetic shift gives y. So the only conditions are
//   - u and v fit 16 bits (VPMADDWD multiplies them): |u| <= 49 |w|, and from x in 0 .. limit
//     comes |v| <= limit * kInputGrowth, the larger one of the sums of the positive and of the
//     negative coefficients of two rows' outer product;
//   - |y| < 2^25.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

typedef __m256i Words;  // 16 words of 16 bits, or 8 of 32

inline Words add16(Words a, Words b) { return _mm256_add_epi16(a, b); }
inline Words subtract16(Words a, Words b) { return _mm256_sub_epi16(a, b); }
inline Words add32(Words a, Words b) { return _mm256_add_epi32(a, b); }
inline Words subtract32(Words a, Words b) { return _mm256_sub_epi32(a, b); }
inline Words times16(Words a, short n) { return _mm256_mullo_epi16(a, _mm256_set1_epi16(n)); }
inline Words times32(Words a, int n) { return _mm256_mullo_epi32(a, _mm256_set1_epi32(n)); }
template <int N>
inline Words shift16(Words a) {
  return _mm256_slli_epi16(a, N);
}
template <int N>
inline Words shift32(Words a) {
  return _mm256_slli_epi32(a, N);
}

// Points 0, 1, -1, 2, -2, infinity.
//
//       4  0 -5  0  1  0            1  0  0             6 -4 -4  1  1  0
//       0 -4 -4  1  1  0            1  1  1             0 -4  4  2 -2  0   / 2
//   B = 0  4 -4 -1  1  0        u = 1 -1  1  w     A' = 0 -4 -4  4  4  0   / 4
//       0 -2 -1  2  1  0            1  2  4             0 -4  4  8 -8 24   / 4
//       0  2 -1 -2  1  0            1 -2  4
//       0  4  0 -5  0  1            0  0  1
struct F4 {
  static constexpr int kOut = 4, kIn = 6;
  static constexpr int kShift[kOut] = {3, 2, 1, 1};
  static constexpr std::uint32_t kInverse = 0x38e38e39u;  // of 3^2
  static_assert(kInverse * 9u == 1u, "");
  static constexpr int kInputGrowth = 68;

  static void input(const Words* x, Words* v) {
    const Words p = subtract16(x[4], shift16<2>(x[2])), q = subtract16(x[3], shift16<2>(x[1]));
    const Words a = subtract16(x[4], x[2]), b = shift16<1>(subtract16(x[3], x[1]));
    v[0] = add16(shift16<2>(subtract16(x[0], x[2])), a);
    v[1] = add16(p, q);
    v[2] = subtract16(p, q);
    v[3] = add16(a, b);
    v[4] = subtract16(a, b);
    v[5] = subtract16(subtract16(x[5], x[3]), shift16<1>(b));
  }

  static void weight(const Words* w, Words* u) {
    const Words near = add16(w[0], w[2]), far = add16(w[0], shift16<2>(w[2]));
    const Words twice = shift16<1>(w[1]);
    u[0] = w[0];
    u[1] = add16(near, w[1]);
    u[2] = subtract16(near, w[1]);
    u[3] = add16(far, twice);
    u[4] = subtract16(far, twice);
    u[5] = w[2];
  }

  static void output(const Words* m, Words* y) {
    const Words s1 = add32(m[1], m[2]), d1 = subtract32(m[1], m[2]);
    const Words s2 = add32(m[3], m[4]), d2 = subtract32(m[3], m[4]);
    const Words last = add32(add32(d2, m[5]), shift32<1>(m[5]));
    y[0] = add32(add32(shift32<2>(subtract32(m[0], s1)), shift32<1>(m[0])), s2);
    y[1] = subtract32(d2, shift32<1>(d1));
    y[2] = subtract32(s2, s1);
    y[3] = subtract32(shift32<1>(last), d1);
  }
};

// Points 0, 1, -1, 2, -2, 1/2, -1/2, infinity.
//
//       4  0 -21   0  21   0 -4  0            1  0  0           90 -20 -20  1   1 32  32  0
//       0  4   4 -17 -17   4  4  0            1  1  1            0 -20  20  2  -2 16 -16  0  / 2
//       0 -4   4  17 -17  -4  4  0            1 -1  1            0 -20 -20  4   4  8   8  0  / 4
//   B = 0  2   1 -10  -5   8  4  0        u = 1  2  4  w    A' = 0 -20  20  8  -8  4  -4  0  / 4
//       0 -2   1  10  -5  -8  4  0            1 -2  4            0 -20 -20 16  16  2   2  0  / 2
//       0  4   8  -5 -10   1  2  0            4  2  1            0 -20  20 32 -32  1  -1 90
//       0 -4   8   5 -10  -1  2  0            4 -2  1
//       0 -4   0  21   0 -21  0  4            0  0  1
struct F6 {
  static constexpr int kOut = 6, kIn = 8;
  static constexpr int kShift[kOut] = {3, 2, 1, 1, 2, 3};
  static constexpr std::uint32_t kInverse = 0x0f0b4059u;  // of 45^2
  static_assert(kInverse * 2025u == 1u, "");
  static constexpr int kInputGrowth = 1412;

  static void input(const Words* x, Words* v) {
    v[0] = add16(shift16<2>(subtract16(x[0], x[6])), times16(subtract16(x[4], x[2]), 21));
    v[7] = add16(shift16<2>(subtract16(x[7], x[1])), times16(subtract16(x[3], x[5]), 21));
    const Words even = subtract16(shift16<2>(add16(x[2], x[6])), times16(x[4], 17));
    const Words odd = subtract16(shift16<2>(add16(x[1], x[5])), times16(x[3], 17));
    v[1] = add16(even, odd);
    v[2] = subtract16(even, odd);
    const Words x4 = add16(shift16<2>(x[4]), x[4]), x3 = add16(shift16<2>(x[3]), x[3]);
    const Words a = add16(subtract16(x[2], x4), shift16<2>(x[6]));
    const Words b = shift16<1>(add16(subtract16(x[1], x3), shift16<2>(x[5])));
    v[3] = add16(a, b);
    v[4] = subtract16(a, b);
    const Words c = shift16<1>(add16(subtract16(x[6], x4), shift16<2>(x[2])));
    const Words d = add16(subtract16(x[5], x3), shift16<2>(x[1]));
    v[5] = add16(c, d);
    v[6] = subtract16(c, d);
  }

  static void weight(const Words* w, Words* u) {
    F4::weight(w, u);
    const Words half = add16(shift16<2>(w[0]), w[2]), twice = shift16<1>(w[1]);
    u[5] = add16(half, twice);
    u[6] = subtract16(half, twice);
    u[7] = w[2];
  }

  static void output(const Words* m, Words* y) {
    const Words s1 = add32(m[1], m[2]), d1 = subtract32(m[1], m[2]);
    const Words s2 = add32(m[3], m[4]), d2 = subtract32(m[3], m[4]);
    const Words s3 = add32(m[5], m[6]), d3 = subtract32(m[5], m[6]);
    const Words s5 = add32(shift32<2>(s1), s1), d5 = add32(shift32<2>(d1), d1);
    const Words s10 = shift32<1>(s5), d10 = shift32<1>(d5);
    y[0] = add32(subtract32(times32(m[0], 90), shift32<1>(s10)), add32(s2, shift32<5>(s3)));
    y[1] = add32(subtract32(d2, d10), shift32<3>(d3));
    y[2] = add32(subtract32(s2, s5), shift32<1>(s3));
    y[3] = add32(subtract32(shift32<1>(d2), d5), d3);
    y[4] = add32(subtract32(shift32<3>(s2), s10), s3);
    y[5] = add32(subtract32(times32(m[7], 90), shift32<1>(d10)), add32(d3, shift32<5>(d2)));
  }
};

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
