// AVX-512 with VNNI: one instruction multiplies 64 pairs of bytes and sums them to 32 bits.
#pragma once

#include "simd_avx512_base.h"

#define RSQUANT_TAP_ROWS

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Unsigned bytes (inputs, up to 255) times signed ones, exact.
struct ByteDot {
  static constexpr bool kNarrow = false;
  typedef Ints Sum;
  static Sum step(Sum sum, Ints a, Ints w) { return _mm512_dpbusd_epi32(sum, a, w); }
  static Ints widen(Sum sum) { return sum; }
};

struct WordDot {
  static constexpr bool kNarrow = false;
  typedef Ints Sum;
  static Sum step(Sum sum, Ints a, Ints w) { return _mm512_dpwssd_epi32(sum, a, w); }
  static Ints widen(Sum sum) { return sum; }
};

// --- Tables ---

// Tables of 64 bytes, of six channels, looked up by VPERMB.
struct Lookup : ShuffleLookup {
  static constexpr int kChannels = 6, kTableBytes = 64, kRowBytes = 12;
  static constexpr int kTables = 2, kMostTables = 3, kFewestOfBytes = 8;
  static constexpr int kPairPixels = 4, kSinglePixels = 4;
  static constexpr int kHalfPairPixels = 7, kHalfSinglePixels = 4;
  static constexpr int kBytePixels = 6, kHalfBytePixels = 7;
  static constexpr int kShortRow = 24;
  static constexpr int kTogether = 4;

  // Loaded once for all vectors of indices: as operands of VPERMB, each would load it.
  static Ints table(const std::uint8_t* from) {
    Ints all = _mm512_loadu_si512(from);
#if defined(__AVX512F__)
    asm("" : "+v"(all));
#endif
    return all;
  }
  // All of `some` come before what is done with any of them.
  static void all_first([[maybe_unused]] Ints (&some)[4]) {
#if defined(__AVX512F__)
    asm("" : "+v"(some[0]), "+v"(some[1]), "+v"(some[2]), "+v"(some[3]));
#endif
  }
  // The upper byte of each 16 bits by a multiplication: a shift would take a unit that looks up. It
  // takes a register for its factors instead.
  static Single count_often(Single sum, Ints bytes) {
    const Ints upper = _mm512_maddubs_epi16(bytes, _mm512_set1_epi16(256));
    return {_mm512_add_epi16(sum.low, bytes), _mm512_add_epi16(sum.high, upper)};
  }
  // Of an index the lower six bits count.
  static Ints pick(Ints table, Ints index) { return _mm512_permutexvar_epi8(index, table); }

  // Where the entries of four tables find the numbers that they are the sum of. Of table t the 16
  // of its first four channels are in 16 bytes t: those of the pair (a0, a1), by the lower two bits
  // of the entry's number, and of (a2, a3). `third[t]` has those of (a4, a5), 16 times each.
  struct Places {
    Ints first, second, third[kTogether];
  };
  static Places places() {
    Places all;
    // Of each pair, by two bits: 33, a place that is 0; 0; 1; 32, the sum of both. Channels of a
    // table, from the first of the four.
    const Ints channel = _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_setr_m128i(_mm_set1_epi8(0), _mm_set1_epi8(6))),
        _mm256_setr_m128i(_mm_set1_epi8(12), _mm_set1_epi8(18)), 1);
    const __m128i second = _mm_setr_epi32(0x21212121, 0, 0x01010101, 0x20202020);
    all.first = _mm512_add_epi8(channel, _mm512_set1_epi32(0x20010021));
    all.second = _mm512_add_epi8(_mm512_add_epi8(channel, _mm512_set1_epi8(2)),
                                 _mm512_broadcast_i32x4(second));
    const Ints third = _mm512_setr_epi32(0x21212121, 0x21212121, 0x21212121, 0x21212121, 0, 0, 0, 0,
                                         0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x20202020,
                                         0x20202020, 0x20202020, 0x20202020);
#pragma GCC unroll 4
    for (int t = 0; t < kTogether; ++t) {
      all.third[t] = _mm512_add_epi8(third, _mm512_set1_epi8(static_cast<char>(kChannels * t + 4)));
    }
    return all;
  }

  // Bytes of `count` tables, up to kTogether, to tables; bytes behind `channels` of them are zeros.
  [[gnu::always_inline]] static void make_tables(const std::uint8_t* bytes, int channels,
                                                 const Places& places, std::uint8_t* out,
                                                 int count) {
    // a0 .. a31, then a0 + a1, 0, a2 + a3, 0, ..
    const Ints a =
        _mm512_broadcast_i64x4(channels >= kTogether * kChannels
                                   ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes))
                                   : _mm256_maskz_loadu_epi8((1u << channels) - 1, bytes));
    const Ints all = _mm512_mask_maddubs_epi16(a, 0xffff0000u, a, _mm512_set1_epi8(1));
    const Ints four = _mm512_add_epi8(_mm512_permutexvar_epi8(places.first, all),
                                      _mm512_permutexvar_epi8(places.second, all));
    const auto make = [&](int t, Ints of_four) {
      if (t >= count) return;
      _mm512_storeu_si512(out + t * kTableBytes,
                          _mm512_add_epi8(of_four, _mm512_permutexvar_epi8(places.third[t], all)));
    };
    make(0, _mm512_shuffle_i32x4(four, four, 0x00));
    make(1, _mm512_shuffle_i32x4(four, four, 0x55));
    make(2, _mm512_shuffle_i32x4(four, four, 0xaa));
    make(3, _mm512_shuffle_i32x4(four, four, 0xff));
  }

  // `count` bytes of a row, behind which none are read, for each 16 bytes of a vector: rows i,
  // 16 + i, ..
  static Ints load_ends(const std::uint8_t* const* rows, std::int64_t at, int count) {
    const __mmask16 some = static_cast<__mmask16>((1 << count) - 1);
    const auto from = [&](int i) { return _mm_maskz_loadu_epi8(some, rows[i] + at); };
    return join(from(0), from(16), from(32), from(48));
  }
  // 12 vectors of bytes that follow each other in rows to 16 of numbers of six bits, the upper two
  // bits of each being any.
  [[gnu::always_inline]] static void six_bits(Ints (&columns)[16]) {
    const Ints two = _mm512_set1_epi8(3), four = _mm512_set1_epi8(15);
    const auto choose = [](Ints lower, Ints a, Ints b) {  // lower bits of a, the upper ones of b
      return _mm512_or_si512(_mm512_and_si512(lower, a), _mm512_andnot_si512(lower, b));
    };
#pragma GCC unroll 4
    for (int i = 3; i >= 0; --i) {  // the last first: in place
      const Ints a = columns[3 * i], b = columns[3 * i + 1], c = columns[3 * i + 2];
      columns[4 * i] = a;
      columns[4 * i + 1] = choose(two, _mm512_srli_epi16(a, 6), _mm512_slli_epi16(b, 2));
      columns[4 * i + 2] = choose(four, _mm512_srli_epi16(b, 4), _mm512_slli_epi16(c, 4));
      columns[4 * i + 3] = _mm512_srli_epi16(c, 2);
    }
  }
  static Ints first_bits(Ints bytes, int count) {
    return _mm512_and_si512(bytes, _mm512_set1_epi8(static_cast<char>((1 << count) - 1)));
  }
};

// --- Bit planes ---

#define RSQUANT_BITPLANES

inline Ints multiply(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }

struct BitDot {
  static constexpr int kChannels = 8;
  static constexpr int kPixels = 12;  // 24 sums of 32 registers
  static constexpr int kSteps = 511;  // 64 * 511 <= 32,767: `weigh` multiplies 16 bits
  typedef Ints Sum;
  static Sum load(const void* from) { return _mm512_load_si512(from); }
  static Sum spread(std::uint64_t word) { return _mm512_set1_epi64(static_cast<long long>(word)); }
  static Sum step(Sum sum, Sum a, Sum w) {
    return _mm512_add_epi64(sum, _mm512_popcnt_epi64(_mm512_and_si512(a, w)));
  }
  static Ints weigh(Ints acc, const Sum* sums, Ints factor) {
    const Ints even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    // The upper halves of the counts are 0.
    return _mm512_dpwssd_epi32(acc, _mm512_permutex2var_epi32(sums[0], even, sums[1]), factor);
  }
};

inline void split64(const std::uint8_t* bytes, const Codes& codes, std::uint64_t* words) {
  const __m512i v = _mm512_loadu_si512(bytes);
  std::uint64_t found[4] = {};
  for (int l = 0; l < codes.count; ++l) {
    const std::uint64_t equal =
        _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8(static_cast<char>(codes.level[l])));
    for (int j = 0; j < 4; ++j) found[j] |= codes.code[l] >> j & 1 ? equal : 0;
  }
  for (int j = 0; j < codes.planes; ++j) words[j] = found[j];
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
