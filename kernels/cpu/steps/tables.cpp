#include "steps/tables.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <limits>

#include "byte_ranks.h"
#include "byte_words.h"
#include "word_levels.h"

namespace rsquant {

Tables::Tables(const EpilogueTables& given, int channels, std::int64_t most)
    : channels_(channels), add_(given.add), keep_(given.keep), codes_(given.codes) {
  const std::size_t n = static_cast<std::size_t>(channels);
  const std::size_t padded = static_cast<std::size_t>(padded_channels(channels));
  memory_ = Buffer((5 + static_cast<std::size_t>(given.thresholds)) * padded * 4);
  std::memset(memory_.data(), 0, memory_.size());
  std::uint8_t* next = memory_.data();
  const auto keep = [&](const void* from) {
    std::uint8_t* to = next;
    std::memcpy(to, from, n * 4);
    next += padded * 4;
    return to;
  };
  epilogue_.correction = reinterpret_cast<const std::int32_t*>(keep(given.correction));
  epilogue_.scale = reinterpret_cast<const float*>(keep(given.scale));
  epilogue_.shift = reinterpret_cast<const float*>(keep(given.shift));
  epilogue_.base = reinterpret_cast<const std::int32_t*>(keep(given.base));
  epilogue_.sign = reinterpret_cast<const std::int32_t*>(keep(given.sign));
  for (int k = 0; k < given.thresholds; ++k) {
    epilogue_.threshold[k] = keep(static_cast<const std::uint8_t*>(given.threshold) + k * n * 4);
    epilogue_.step[k] = given.step[k];
  }
  epilogue_.thresholds = given.thresholds;
  epilogue_.integer = given.integer;
  epilogue_.low = given.low;
  epilogue_.high = given.high;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  epilogue_.plain =
      given.low == -kInfinity && given.high == kInfinity &&
      std::all_of(given.correction, given.correction + n, [](std::int32_t c) { return c == 0; });
  if (given.integer) {
    words_ = Buffer(word_levels_bytes(epilogue_, channels));
    std::memset(words_.data(), 0, words_.size());
    epilogue_.words = make_word_levels(epilogue_, channels, most, words_.data());
  }
}

Tables::Tables(const ByteEpilogueTables& of, int channels)
    : channels_(channels), add_(of.add), keep_(of.keep), codes_(of.codes) {
  const ByteEpilogue& given = of.given;
  const std::size_t n = static_cast<std::size_t>(channels);
  const std::size_t padded = static_cast<std::size_t>(padded_channels(channels));
  const bool ranked = given.thresholds == kMaxThresholds;
  memory_ = Buffer((2 * 4 + 2 + 1 + 2 * static_cast<std::size_t>(given.thresholds)) * padded +
                   (ranked ? byte_ranks_bytes(static_cast<std::int64_t>(padded)) : 0));
  std::memset(memory_.data(), 0, memory_.size());
  std::uint8_t* next = memory_.data();
  const auto keep = [&]<class T>(const T* from) {
    T* to = reinterpret_cast<T*>(next);
    std::memcpy(next, from, n * sizeof(T));
    next += padded * sizeof(T);
    return to;
  };
  ByteEpilogue& e = epilogue_.bytes;
  e = given;
  e.bias = keep(given.bias);
  e.factor = keep(given.factor);
  e.large = std::any_of(given.factor, given.factor + n,
                        [](float factor) { return factor >= 1.0f || factor <= -1.0f; });
  make_byte_words(e, channels, of.add.has_value(), reinterpret_cast<std::int16_t*>(next));
  next += padded * sizeof(std::int16_t);
  // code = 64 (byte - zero) / 64, all of which there are.
  const int zero = -given.low;
  e.same = given.high == 255 - zero;
  if (!of.keep) {  // levels of the byte as it is
    e.same = e.same && !of.add && given.offset == zero && given.least == 0 && given.most == 255;
  }
  for (std::size_t c = 0; c < n; ++c) {
    e.same = e.same && given.factor[c] == 1.0f / 64 && given.bias[c] == -64 * zero;
  }
  if (given.thresholds > 0) e.base = keep(given.base);
  std::int8_t* const threshold = reinterpret_cast<std::int8_t*>(next);
  for (int k = 0; k < given.thresholds; ++k) e.threshold[k] = keep(given.threshold[k]);
  std::uint8_t* const step = next;
  for (int k = 0; k < given.thresholds; ++k) e.step[k] = keep(given.step[k]);
  e.ranks = {};
  if (ranked) {
    const ByteThresholds all = {threshold, step, e.base, static_cast<std::int64_t>(padded)};
    e.ranks = make_byte_ranks(all, channels, next);
  }
  epilogue_.to_bytes = true;
}

void Tables::declare(Program& program, bool in_place) const {
  const Value& out = output(program);
  if (add_) {
    const Value& added = program.value_at(*add_);
    require(added.kind == kept() && added.channels == channels_ && added.height == out.height &&
                added.width == out.width,
            "shape of what is added");
    program.reads(*add_);
  }
  if (keep_) program.writes(*keep_);
  if (codes_) program.writes(*codes_);
  if (add_ && keep_ && in_place) program.in_place(*add_, *keep_);
}

void Tables::keep_read(const IsaTable& isa) {
  if (epilogue_.words.tables == nullptr || !isa.word_levels) return;
  memory_ = Buffer();
  epilogue_.correction = epilogue_.base = epilogue_.sign = nullptr;
  epilogue_.scale = epilogue_.shift = nullptr;
  std::fill(std::begin(epilogue_.threshold), std::end(epilogue_.threshold), nullptr);
}

const Value& Tables::output(const Program& program) const {
  require(keep_ || codes_, "an epilogue writes something");
  const Value& out = program.value_at(keep_ ? *keep_ : *codes_);
  for (const std::optional<int>& id : {keep_, codes_}) {
    if (!id) continue;
    const Value& v = program.value_at(*id);
    require(v.height == out.height && v.width == out.width, "shape of the output");
    require(v.channels == channels_, "channels of the output");
    require(v.kind == (id == keep_ ? kept() : Kind::codes), "kind of the output");
  }
  return out;
}

Epilogue Tables::bind(const Program& program) const {
  return epilogue_.to_bytes ? bind_bytes(program) : bind_floats(program);
}

Epilogue Tables::bind_bytes(const Program& program) const {
  Epilogue e = epilogue_;
  ByteEpilogue& b = e.bytes;
  if (add_) {
    b.add = program.inside(*add_);
    b.add_row = program.value_at(*add_).row();
    b.add_pixel = program.value_at(*add_).pixel_bytes();
  }
  if (keep_) {
    program.fill_border(*keep_);
    b.keep = program.inside(*keep_);
    b.keep_row = program.value_at(*keep_).row();
    b.keep_pixel = program.value_at(*keep_).pixel_bytes();
  }
  if (codes_) {
    program.fill_border(*codes_);
    b.codes = program.inside(*codes_);
    b.codes_row = program.value_at(*codes_).row();
    b.codes_pixel = program.value_at(*codes_).pixel_bytes();
  }
  return e;
}

Epilogue Tables::bind_floats(const Program& program) const {
  Epilogue e = epilogue_;
  if (add_) e.add = program.floats(*add_);
  if (keep_) e.keep = program.floats(*keep_);
  if (codes_) {
    const Value& v = program.value_at(*codes_);
    program.fill_border(*codes_);
    e.codes = program.inside(*codes_);
    e.codes_row = v.row();
    e.codes_pixel = v.pixel_bytes();
  }
  return e;
}

}  // namespace rsquant
