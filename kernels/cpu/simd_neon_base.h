// What both 64-bit ARM instruction sets share: everything of simd.h but the dot products.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

constexpr int kLanes = 4;

typedef int32x4_t Ints;
typedef float32x4_t Floats;

inline Ints load(const void* from) {
  return vreinterpretq_s32_u8(vld1q_u8(static_cast<const std::uint8_t*>(from)));
}
inline void store(void* to, Ints v) {
  vst1q_u8(static_cast<std::uint8_t*>(to), vreinterpretq_u8_s32(v));
}
inline Ints broadcast(std::int32_t value) { return vdupq_n_s32(value); }
inline Ints add(Ints a, Ints b) { return vaddq_s32(a, b); }
inline Ints subtract(Ints a, Ints b) { return vsubq_s32(a, b); }
inline Ints multiply(Ints a, Ints b) { return vmulq_s32(a, b); }
inline Ints multiply_sign(Ints a, Ints sign) { return vmulq_s32(a, sign); }
inline Ints and_greater(Ints a, Ints b, Ints value) {
  return vandq_s32(vreinterpretq_s32_u32(vcgtq_s32(a, b)), value);
}
inline Ints and_greater(Floats a, Floats b, Ints value) {
  return vandq_s32(vreinterpretq_s32_u32(vcgtq_f32(a, b)), value);
}

inline Floats load(const float* from) { return vld1q_f32(from); }
inline void store(float* to, Floats v) { vst1q_f32(to, v); }
inline Floats broadcast(float value) { return vdupq_n_f32(value); }
inline Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
inline Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
inline Floats largest(Floats a, Floats b) { return vmaxq_f32(a, b); }
inline Floats smallest(Floats a, Floats b) { return vminq_f32(a, b); }
inline Floats to_float(Ints v) { return vcvtq_f32_s32(v); }
inline Ints round(Floats v) { return vcvtnq_s32_f32(v); }

struct Shorts {
  int16x8_t low, high;
};
inline Shorts to_shorts(const Ints* v) {
  return {vcombine_s16(vqmovn_s32(v[0]), vqmovn_s32(v[1])),
          vcombine_s16(vqmovn_s32(v[2]), vqmovn_s32(v[3]))};
}
inline Shorts widen16(const std::uint8_t* from) {
  const uint8x16_t bytes = vld1q_u8(from);
  return {vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))),
          vreinterpretq_s16_u16(vmovl_high_u8(bytes))};
}
inline Shorts spread16(std::int16_t value) { return {vdupq_n_s16(value), vdupq_n_s16(value)}; }
inline Shorts add(Shorts a, Shorts b) {
  return {vqaddq_s16(a.low, b.low), vqaddq_s16(a.high, b.high)};
}
inline Shorts largest(Shorts a, Shorts b) {
  return {vmaxq_s16(a.low, b.low), vmaxq_s16(a.high, b.high)};
}
inline Shorts smallest(Shorts a, Shorts b) {
  return {vminq_s16(a.low, b.low), vminq_s16(a.high, b.high)};
}

constexpr int kAtOnce = 1;
typedef Bytes16 ByteVector;
typedef SignedBytes16 SignedByteVector;

inline ByteVector narrow(const Shorts* v) {
  return (Bytes16)vcombine_u8(vqmovun_s16(v[0].low), vqmovun_s16(v[0].high));
}
inline ByteVector repeat(Bytes16 v) { return v; }
inline Bytes16 part(ByteVector v, int) { return v; }

inline void store_bytes(std::uint8_t* to, const Ints* v) {
  const int16x8_t low = vcombine_s16(vmovn_s32(v[0]), vmovn_s32(v[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(v[2]), vmovn_s32(v[3]));
  vst1q_u8(to, vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(low), vmovn_s16(high))));
}

inline void decode32(const std::uint32_t* planes, int bits, std::int8_t offset,
                     const std::int8_t* worth, std::int8_t* out) {
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201ULL));
  const uint8x16_t first = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1));
  const uint8x16_t second = vcombine_u8(vdup_n_u8(2), vdup_n_u8(3));
  int8x16_t low = vdupq_n_s8(offset), high = low;
  for (int k = 0; k < bits; ++k) {
    const uint8x16_t word = vreinterpretq_u8_u32(vdupq_n_u32(planes[k]));
    const int8x16_t value = vdupq_n_s8(worth[k]);
    const uint8x16_t set_low = vtstq_u8(vqtbl1q_u8(word, first), bit);
    const uint8x16_t set_high = vtstq_u8(vqtbl1q_u8(word, second), bit);
    low = vaddq_s8(low, vandq_s8(vreinterpretq_s8_u8(set_low), value));
    high = vaddq_s8(high, vandq_s8(vreinterpretq_s8_u8(set_high), value));
  }
  vst1q_s8(out, low);
  vst1q_s8(out + 16, high);
}

inline Ints widen_bytes(const std::uint8_t* from) {
  return vreinterpretq_s32_u16(vmovl_u8(vld1_u8(from)));
}
inline Ints multiply_add16(Ints sum, Ints a, Ints b) {
  return vreinterpretq_s32_s16(
      vmlaq_s16(vreinterpretq_s16_s32(sum), vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)));
}
inline void add_to(std::int32_t* to, Ints words) {
  const int16x8_t w = vreinterpretq_s16_s32(words);
  store(to, vaddw_s16(load(to), vget_low_s16(w)));
  store(to + 4, vaddw_high_s16(load(to + 4), w));
}

// --- Bit planes ---

#define RSQUANT_BITPLANES

// CNT counts within bytes: a sum holds 8 counts for each channel, of at most 8 bits a step.
struct BitDot {
  static constexpr int kChannels = 2;
  static constexpr int kPixels = 2;  // 16 sums; with 24 the compiler runs out of 32 registers
  static constexpr int kSteps = 31;  // 8 * 31 <= 255
  typedef uint8x16_t Sum;
  static Sum load(const void* from) { return vld1q_u8(static_cast<const std::uint8_t*>(from)); }
  static Sum spread(std::uint64_t word) { return vreinterpretq_u8_u64(vdupq_n_u64(word)); }
  static Sum step(Sum sum, Sum a, Sum w) { return vaddq_u8(sum, vcntq_u8(vandq_u8(a, w))); }
  static Ints weigh(Ints acc, const Sum* sums, Ints factor) {
    const uint32x4_t low = vpaddlq_u16(vpaddlq_u8(sums[0]));
    const uint32x4_t high = vpaddlq_u16(vpaddlq_u8(sums[1]));
    return vmlaq_s32(acc, vreinterpretq_s32_u32(vpaddq_u32(low, high)), factor);
  }
};

inline void split64(const std::uint8_t* bytes, const Codes& codes, std::uint64_t* words) {
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201ULL));
  uint8x16x4_t low, high;
  for (int i = 0; i < 4; ++i) {
    low.val[i] = vld1q_u8(codes.of + 16 * i);
    high.val[i] = vld1q_u8(codes.of + 64 + 16 * i);
  }
  uint8x16_t code[4];
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t b = vld1q_u8(bytes + 16 * i);
    code[i] = vqtbx4q_u8(vqtbl4q_u8(low, b), high, vsubq_u8(b, vdupq_n_u8(64)));
  }
  for (int j = 0; j < codes.planes; ++j) {
    const uint8x16_t wanted = vdupq_n_u8(static_cast<std::uint8_t>(1 << j));
    uint8x16_t set[4];
    for (int i = 0; i < 4; ++i) set[i] = vandq_u8(vtstq_u8(code[i], wanted), bit);
    const uint8x16_t pairs = vpaddq_u8(vpaddq_u8(set[0], set[1]), vpaddq_u8(set[2], set[3]));
    words[j] = vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(pairs, pairs)), 0);
  }
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
