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

// --- Tables ---

#define RSQUANT_LOOKUP

// A vector of a pair of planes has the first one's indices in its lower half.
struct Lookup {
  static constexpr int kChannels = 4, kTableBytes = 16, kRowBytes = 16;
  static constexpr int kTables = 4, kMostTables = 4, kFewestOfBytes = 0;
  static constexpr int kVectors = 4, kPairPixels = 3, kSinglePixels = 3;
  static constexpr int kHalfPairPixels = 6, kHalfSinglePixels = 6;
  static constexpr int kBytePixels = 0, kHalfBytePixels = 0;
  static constexpr int kShortRow = 0;
  struct Single {
    uint16x8_t low, high;
  };

  static Ints table(const std::uint8_t* from) { return load(from); }
  static Ints pick(Ints table, Ints index) {
    return vreinterpretq_s32_u8(
        vqtbl1q_u8(vreinterpretq_u8_s32(table), vreinterpretq_u8_s32(index)));
  }
  // GCC would add in another order, which takes more registers than there are.
  static Ints add_bytes(Ints a, Ints b) {
    uint8x16_t sum = vaddq_u8(vreinterpretq_u8_s32(a), vreinterpretq_u8_s32(b));
    asm("" : "+w"(sum));
    return vreinterpretq_s32_u8(sum);
  }
  static Ints multiply32(Ints a, Ints b) { return vmulq_s32(a, b); }
  static Ints weigh(Ints sum, Ints bytes, Ints factor) {
    const uint8x16_t b = vreinterpretq_u8_s32(bytes), f = vreinterpretq_u8_s32(factor);
    const uint16x8_t first = vmlal_u8(vreinterpretq_u16_s32(sum), vget_low_u8(b), vget_low_u8(f));
    return vreinterpretq_s32_u16(vmlal_high_u8(first, b, f));
  }
  // Of output channels 0 .. 3 and of the others.
  static Ints first_words(Ints sum) {
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vreinterpretq_u16_s32(sum))));
  }
  static Ints last_words(Ints sum) {
    return vreinterpretq_s32_u32(vmovl_high_u16(vreinterpretq_u16_s32(sum)));
  }
  static Ints first_signed(Ints sum) { return vmovl_s16(vget_low_s16(vreinterpretq_s16_s32(sum))); }
  static Ints last_signed(Ints sum) { return vmovl_high_s16(vreinterpretq_s16_s32(sum)); }
  static Ints multiply16(Ints a, Ints b) {
    return vreinterpretq_s32_s16(vmulq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)));
  }
  static Ints add16(Ints a, Ints b) {
    return vreinterpretq_s32_s16(vaddq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)));
  }
  static Ints spread16(std::int32_t value) {
    return vreinterpretq_s32_s16(vdupq_n_s16(static_cast<std::int16_t>(value)));
  }
  static int word_place(int output) { return output; }
  static int pair_place(int output, int plane) { return output + 2 * kLanes * plane; }
  static Single count(Single sum, Ints bytes) {
    const uint8x16_t b = vreinterpretq_u8_s32(bytes);
    return {vaddw_u8(sum.low, vget_low_u8(b)), vaddw_high_u8(sum.high, b)};
  }
  static Single count_often(Single sum, Ints bytes) { return count(sum, bytes); }
  // Sums of output channels 0 .. 2 kLanes - 1, and of the others.
  static Ints first_of(Single sum) { return vreinterpretq_s32_u16(sum.low); }
  static Ints last_of(Single sum) { return vreinterpretq_s32_u16(sum.high); }
  static int single_place(int output) { return output; }
  static Ints load_rows(const std::uint8_t* const* rows, std::int64_t at) {
    return load(rows[0] + at);
  }
  static Ints interleave_low(Ints a, Ints b) {
    return vreinterpretq_s32_u8(vzip1q_u8(vreinterpretq_u8_s32(a), vreinterpretq_u8_s32(b)));
  }
  static Ints interleave_high(Ints a, Ints b) {
    return vreinterpretq_s32_u8(vzip2q_u8(vreinterpretq_u8_s32(a), vreinterpretq_u8_s32(b)));
  }
  static Ints exclusive(Ints a, Ints b) { return veorq_s32(a, b); }
  static Ints low_bits(Ints bytes) { return vandq_s32(bytes, vdupq_n_s32(0x0f0f0f0f)); }
  static Ints high_bits(Ints bytes) {
    return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(bytes), 4));
  }
  static constexpr int kTogether = 4;
  struct Places {};
  static Places places() { return {}; }
  static void make_tables(const std::uint8_t* bytes, std::uint8_t* out) {
    constexpr std::uint8_t kNone = 255;  // TBL gives 0
    static const std::uint8_t first[16] = {kNone, 0, 1, 8, kNone, 0, 1, 8,
                                           kNone, 0, 1, 8, kNone, 0, 1, 8};
    static const std::uint8_t second[16] = {kNone, kNone, kNone, kNone, 2,  2,  2,  2,
                                            3,     3,     3,     3,     10, 10, 10, 10};
    const uint8x16_t low = vld1q_u8(first), high = vld1q_u8(second);
    for (int half = 0; half < 2; ++half) {
      // a0 .. a7, then a0 + a1, -, a2 + a3, -, ..
      const uint8x8_t a = vld1_u8(bytes + 8 * half);
      const uint8x8_t next = vreinterpret_u8_u16(vshr_n_u16(vreinterpret_u16_u8(a), 8));
      const uint8x16_t both = vcombine_u8(a, vadd_u8(a, next));
      const uint8x16_t four = vdupq_n_u8(4);
      std::uint8_t* to = out + 32 * half;
      vst1q_u8(to, vaddq_u8(vqtbl1q_u8(both, low), vqtbl1q_u8(both, high)));
      vst1q_u8(to + 16, vaddq_u8(vqtbl1q_u8(both, vqaddq_u8(low, four)),
                                 vqtbl1q_u8(both, vqaddq_u8(high, four))));
    }
  }
  static std::int32_t sum_bytes(const std::uint8_t* bytes, int count) {
    uint32x4_t sum = vdupq_n_u32(0);
    int i = 0;
    for (; i + 16 <= count; i += 16) {
      sum = vpadalq_u16(sum, vpaddlq_u8(vld1q_u8(bytes + i)));
    }
    std::int32_t total = static_cast<std::int32_t>(vaddvq_u32(sum));
    for (; i < count; ++i) total += bytes[i];
    return total;
  }
};

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
