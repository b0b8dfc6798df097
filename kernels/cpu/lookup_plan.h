// When the sums of a convolution by tables are widened: as seldom as the bits of its weights allow.
//
// No input makes a byte sum larger than one of limits does, nor a 16-bit sum, since every p is
// positive. So the sums of such an input, step by step, tell when one of a block is full. (About
// half of all bits are set: bytes and words hold nearly twice the steps that they would if all
// were.)
#pragma once

#include "lookup_layout.h"

namespace rsquant {
namespace RSQUANT_ISA {
namespace {

// Writes the segments of a part of a block. `Sums` has kBytes byte sums and kWords 16-bit ones, of
// an input of limits:
//
//   step(bytes)           the byte sums of the next step
//   weigh(bytes, words)   the 16-bit sums that some byte sums make
//
// 16-bit sums that are `narrow` need no widening.
template <class Sums>
class Plan {
 public:
  Plan(const Layout& layout, bool narrow, Sums& sums, Segment* out)
      : layout_(layout), narrow_(narrow), sums_(sums), next_(out) {}

  void write() {
    const bool bytes = layout_.steps.together > 1;
    for (int run = 0; run < layout_.runs; ++run) {
      for (int i = 1; i <= layout_.run_steps; ++i) {
        if (bytes) {
          add_bytes();
        } else if (!narrow_) {
          sums_.step(some_);
          if (!add_words(some_)) end(kToWide);
        }
        ++steps_;
        if (layout_.taps_apart && i % layout_.tap_steps() == 0) end(kEndOfTap);
      }
      end(kEndOfRun);
    }
    if (bytes) weigh();
  }

 private:
  // The last segment ends here, or one that began behind it.
  void end(int then) {
    if (steps_ > 0) *next_++ = {steps_, 0};
    next_[-1].then |= then;
    steps_ = 0;
  }

  void add_bytes() {
    sums_.step(some_);
    int largest = 0;
    for (int j = 0; j < Sums::kBytes; ++j) largest = larger(largest, bytes_[j] + some_[j]);
    if (largest > kMostByte) {
      weigh();
      end(kToWords);
      full_ = next_ - 1;
      std::memset(bytes_, 0, sizeof bytes_);
    }
    for (int j = 0; j < Sums::kBytes; ++j) {
      bytes_[j] = static_cast<std::uint16_t>(bytes_[j] + some_[j]);
    }
  }

  // Where words cannot take the byte sums, they become wide when they take those before.
  void weigh() {
    if (!narrow_ && !add_words(bytes_)) full_->then |= kToWide;
  }

  // Returns false where words have begun anew.
  bool add_words(const std::uint16_t* bytes) {
    std::int32_t some[Sums::kWords];
    sums_.weigh(bytes, some);
    int largest = 0;
    for (int j = 0; j < Sums::kWords; ++j) largest = larger(largest, words_[j] + some[j]);
    if (largest > kMostSum) {
      std::memcpy(words_, some, sizeof words_);
      return false;
    }
    for (int j = 0; j < Sums::kWords; ++j) words_[j] += some[j];
    return true;
  }

  static int larger(int a, int b) { return a > b ? a : b; }

  const Layout& layout_;
  bool narrow_;
  Sums& sums_;
  Segment *next_, *full_ = nullptr;
  int steps_ = 0;
  std::uint16_t bytes_[Sums::kBytes] = {}, some_[Sums::kBytes];
  std::int32_t words_[Sums::kWords] = {};
};

// As if every bit were set: of a block whose weights are prepared anew for each image.
class FullSums {
 public:
  static constexpr int kBytes = 1, kWords = 1;
  // `largest`: p, or the p of a pair together.
  FullSums(const ConvShape& s, const Layout& layout, int largest)
      : bytes_(kChannels * layout.steps.tables * s.input_limit), largest_(largest) {}

  void step(std::uint16_t* bytes) const { *bytes = static_cast<std::uint16_t>(bytes_); }
  void weigh(const std::uint16_t* bytes, std::int32_t* words) const { *words = *bytes * largest_; }

 private:
  int bytes_, largest_;
};

// Of indices: `kVectors` vectors for each table.
template <int kVectors, bool kPair>
class IndexSums {
 public:
  static constexpr int kBytes = kVectors * kVectorBytes, kWords = kPair ? kBytes / 2 : kBytes;
  IndexSums(const ConvShape& s, const Layout& layout, const std::uint8_t* index,
            const std::uint8_t* factors)
      : tables_(layout.steps.tables), index_(index), factors_(factors) {
    for (int m = 0; m < kTable; ++m) {
      table_[m] =
          static_cast<std::uint8_t>(__builtin_popcount(static_cast<unsigned>(m)) * s.input_limit);
    }
  }

  void step(std::uint16_t* bytes) {
    alignas(64) std::uint8_t sums[kBytes];
    const Ints table = Lookup::table(table_);
    for (int v = 0; v < kVectors; ++v) {
      Ints sum = {};
      for (int t = 0; t < tables_; ++t) {
        sum = Lookup::add_bytes(
            sum, Lookup::pick(table, load(index_ + (t * kVectors + v) * kVectorBytes)));
      }
      store(sums + v * kVectorBytes, sum);
    }
    index_ += tables_ * kBytes;
    for (int j = 0; j < kBytes; ++j) bytes[j] = sums[j];
  }

  void weigh(const std::uint16_t* bytes, std::int32_t* words) const {
    if constexpr (kPair) {
      alignas(64) std::uint8_t some[kBytes];
      alignas(64) std::uint16_t sums[kWords];
      for (int j = 0; j < kBytes; ++j) some[j] = static_cast<std::uint8_t>(bytes[j]);
      for (int v = 0; v < kVectors; ++v) {
        store(reinterpret_cast<std::uint8_t*>(sums) + v * kVectorBytes,
              Lookup::weigh(Ints{}, load(some + v * kVectorBytes),
                            load(factors_ + v * kVectorBytes)));
      }
      for (int j = 0; j < kWords; ++j) words[j] = sums[j];
    } else {
      for (int j = 0; j < kWords; ++j) words[j] = bytes[j];
    }
  }

 private:
  int tables_;
  const std::uint8_t *index_, *factors_;
  alignas(64) std::uint8_t table_[kTable];
};

template <class Sums>
inline void write_plan(Sums&& sums, const Layout& layout, bool narrow, Segment* out) {
  Plan<Sums>(layout, narrow, sums, out).write();
}

}  // namespace
}  // namespace RSQUANT_ISA
}  // namespace rsquant
