// Tables of an epilogue to bytes from Python: types and sizes.

#include "python/binding.h"

namespace rsquant {

Tables GivenByteTables::tables(int channels, std::int64_t) const {
  require(channels >= 1, "no channels");
  const std::size_t n = static_cast<std::size_t>(channels);
  require(bias.size() == n && factor.size() == n && base.size() == n,
          "tables: one entry per channel");
  const int count = static_cast<int>(threshold.shape(0));
  require(count == 0 || count == 1 || count == 3 || count == 7 || count == 15,
          "thresholds: 0, 1, 3, 7 or 15");
  require((count > 0) == codes.has_value(), "thresholds and codes go together");
  require(threshold.shape(1) == n && step.shape(1) == n && step.shape(0) == threshold.shape(0),
          "thresholds and steps: (L - 1, O)");
  for (const int limit : {low, high, offset, least, most}) {
    require(limit >= -255 && limit <= 255, "limits of bytes");
  }
  require(least >= 0, "limits of bytes");
  require(add.has_value() || (low + offset == least && high + offset == most),
          "limits of bytes: without an addition there is one pair");
  ByteEpilogueTables e = {};
  e.given.bias = bias.data();
  e.given.factor = factor.data();
  e.given.low = static_cast<std::int16_t>(low), e.given.high = static_cast<std::int16_t>(high);
  e.given.offset = static_cast<std::int16_t>(offset);
  e.given.least = static_cast<std::int16_t>(least), e.given.most = static_cast<std::int16_t>(most);
  e.given.thresholds = count;
  for (int k = 0; k < count; ++k) {
    e.given.threshold[k] = threshold.data() + static_cast<std::size_t>(k) * n;
    e.given.step[k] = step.data() + static_cast<std::size_t>(k) * n;
  }
  e.given.base = base.data();
  e.add = add, e.keep = keep, e.codes = codes;
  return Tables(e, channels);
}

void bind_byte_tables(nb::module_& m) {
  nb::class_<GivenByteTables, GivenTables>(m, "ByteTables", "It becomes bytes: see conv.h.")
      .def(
          "__init__",
          [](GivenByteTables* t, Array<const std::int32_t, 1> bias, Array<const float, 1> factor,
             int low, int high, int offset, int least, int most,
             Array<const std::int8_t, 2> threshold, Array<const std::uint8_t, 2> step,
             Array<const std::uint8_t, 1> base, std::optional<int> add, std::optional<int> keep,
             std::optional<int> codes) {
            new (t) GivenByteTables();
            t->bias = bias, t->factor = factor;
            t->low = low, t->high = high, t->offset = offset, t->least = least, t->most = most;
            t->threshold = threshold, t->step = step, t->base = base;
            t->add = add, t->keep = keep, t->codes = codes;
          },
          nb::kw_only(), nb::arg("bias"), nb::arg("factor"), nb::arg("low"), nb::arg("high"),
          nb::arg("offset"), nb::arg("least"), nb::arg("most"), nb::arg("threshold"),
          nb::arg("step"), nb::arg("base"), nb::arg("add").none(), nb::arg("keep").none(),
          nb::arg("codes").none());
}

}  // namespace rsquant
