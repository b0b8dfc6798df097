// Tables of an epilogue from Python: types and sizes.

#include "python/binding.h"

namespace rsquant {

Tables GivenFloatTables::tables(int channels, std::int64_t most) const {
  require(channels >= 1, "no channels");
  const std::size_t n = static_cast<std::size_t>(channels);
  require(correction.size() == n && scale.size() == n && shift.size() == n && base.size() == n &&
              sign.size() == n,
          "tables: one entry per channel");
  EpilogueTables e = {};
  e.correction = correction.data();
  e.scale = scale.data();
  e.shift = shift.data();
  e.step = step.data();
  e.base = base.data();
  e.sign = sign.data();
  e.thresholds = static_cast<int>(step.size());
  require(e.thresholds == 0 || e.thresholds == 1 || e.thresholds == 3 || e.thresholds == 7 ||
              e.thresholds == 15,
          "thresholds: 0, 1, 3, 7 or 15");
  require((e.thresholds > 0) == codes.has_value(), "thresholds and codes go together");
  const auto table = [&](const auto& thresholds) {
    require(thresholds.shape(0) == step.size() && thresholds.shape(1) == n,
            "thresholds: (L - 1, O)");
    e.threshold = thresholds.data();
  };
  if (integer) {
    table(nb::cast<Array<const std::int32_t, 2>>(threshold));
    require(!add && !keep, "integer thresholds: no float values");
  } else {
    table(nb::cast<Array<const float, 2>>(threshold));
  }
  e.integer = integer;
  e.low = low, e.high = high;
  e.add = add, e.keep = keep, e.codes = codes;
  return Tables(e, channels, most);
}

void bind_tables(nb::module_& m) {
  nb::class_<GivenTables>(m, "AnyTables", "What happens to an accumulator: see conv.h.");
  nb::class_<GivenFloatTables, GivenTables>(m, "Tables", "It becomes floats or codes.")
      .def(
          "__init__",
          [](GivenFloatTables* t, Array<const std::int32_t, 1> correction,
             Array<const float, 1> scale, Array<const float, 1> shift, nb::object threshold,
             Array<const std::int32_t, 1> step, Array<const std::int32_t, 1> base,
             Array<const std::int32_t, 1> sign, bool integer, float low, float high,
             std::optional<int> add, std::optional<int> keep, std::optional<int> codes) {
            new (t) GivenFloatTables();
            t->correction = correction, t->scale = scale, t->shift = shift;
            t->threshold = threshold, t->step = step, t->base = base, t->sign = sign;
            t->integer = integer, t->low = low, t->high = high;
            t->add = add, t->keep = keep, t->codes = codes;
          },
          nb::kw_only(), nb::arg("correction"), nb::arg("scale"), nb::arg("shift"),
          nb::arg("threshold"), nb::arg("step"), nb::arg("base"), nb::arg("sign"),
          nb::arg("integer"), nb::arg("low"), nb::arg("high"), nb::arg("add").none(),
          nb::arg("keep").none(), nb::arg("codes").none());
}

}  // namespace rsquant
