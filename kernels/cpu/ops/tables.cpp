#include "ops/tables.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace rsquant {

Tables::Tables(const EpilogueTables& given, int channels)
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
}

void Tables::declare(Program& program, bool in_place) const {
  const Value& out = output(program);
  if (add_) {
    const Value& added = program.value_at(*add_);
    require(added.kind == Kind::real && added.channels == channels_ && added.height == out.height &&
                added.width == out.width,
            "shape of what is added");
    program.reads(*add_);
  }
  if (keep_) program.writes(*keep_);
  if (codes_) program.writes(*codes_);
  if (add_ && keep_ && in_place) program.in_place(*add_, *keep_);
}

const Value& Tables::output(const Program& program) const {
  require(keep_ || codes_, "an epilogue writes something");
  const Value& out = program.value_at(keep_ ? *keep_ : *codes_);
  for (const std::optional<int>& id : {keep_, codes_}) {
    if (!id) continue;
    const Value& v = program.value_at(*id);
    require(v.height == out.height && v.width == out.width, "shape of the output");
    require(v.channels == channels_, "channels of the output");
    require(v.kind == (id == keep_ ? Kind::real : Kind::codes), "kind of the output");
  }
  return out;
}

Epilogue Tables::bind(const Program& program) const {
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
