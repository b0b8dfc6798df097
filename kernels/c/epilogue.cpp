#include "epilogue.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rsquant::packed {
double read_eps(Fields& fields, const char* name, bool has_norm) {
  return fields.real(name, 0.0, has_norm);
}

EndingFields read_ending(Fields& fields, const char* keeps) {
  EndingFields f = {};
  f.norm = fields.text_or_none("norm");
  f.codes_norm = fields.text_or_none("codes_norm");
  f.eps = read_eps(fields, "eps", f.norm.has_value());
  f.add = fields.integer_or_none("add", 1, kLastValue);
  f.relu = fields.flag("relu");
  f.clip = fields.real_or_none("clip", 0.0);
  f.keep = fields.integer_or_none(keeps, 1, kLastValue);
  f.codes = fields.integer_or_none("codes", 1, kLastValue);
  f.codes_eps = read_eps(fields, "codes_eps", f.codes_norm.has_value());
  f.codes_relu = fields.flag("codes_relu");
  f.codes_clip = fields.real_or_none("codes_clip", 0.0);
  f.quantizer = fields.integer_or_none("quantizer", 0, kMostSteps);
  return f;
}

void check_codes(Checker& checker, const EndingFields& f, int channels) {
  if (!f.codes || !f.quantizer) return;
  if (static_cast<std::size_t>(*f.quantizer) >= checker.packed.quantizers.size()) {
    checker.wrong(text_of("there is no quantizer ", *f.quantizer));
  }
  checker.write(*f.codes, {What::codes, channels, *f.quantizer});
}

const ValueSpec* check_added(const Checker& checker, const EndingFields& f, What kept,
                             int channels) {
  if (!f.add) return nullptr;
  const ValueSpec& other = checker.read(*f.add);
  if (other.what != kept || other.channels != channels) {
    checker.wrong(text_of("adds ", name_of(other.what), " of ", other.channels, " to ", channels,
                          " channels"));
  }
  return &other;
}

void check_added_size(const Builder& builder, const EndingFields& f, Pair pixels) {
  if (!f.add) return;
  const ValueAt& other = builder.value(*f.add);
  if (other.pixels() == pixels) return;
  builder.invalid(
      text_of("adds maps of ", other.height, "x", other.width, " and ", pixels[0], "x", pixels[1]));
}

double clipped(double bound, std::optional<double> clip) {
  return clip ? std::min(bound, *clip) : bound;
}

Epilogue Epilogue::read(Fields& fields) {
  Epilogue epilogue;
  epilogue.fields = read_ending(fields, "float");
  const EndingFields& f = epilogue.fields;
  if (!f.keep && !f.codes) throw FieldError{fields.where + ": writes neither 'float' nor 'codes'"};
  if (f.codes.has_value() != f.quantizer.has_value()) {
    throw FieldError{fields.where + ": 'codes' and 'quantizer' go together"};
  }
  if (!f.codes && f.codes_norm) throw FieldError{fields.where + ": 'codes_norm' needs 'codes'"};
  return epilogue;
}

void Epilogue::check(Checker& checker, int channels) const {
  checker.norm(fields.norm, channels);
  checker.norm(fields.codes_norm, channels);
  check_added(checker, fields, What::real, channels);
  if (fields.keep) checker.write(*fields.keep, {What::real, channels});
  check_codes(checker, fields, channels);
}

EndingPointer Epilogue::build(Builder& builder, Result result) const {
  const Affine affine = builder.normed(fields.norm, fields.eps, std::move(result.affine));
  const std::size_t channels = affine.scale.size();
  double bound = 0.0, expected = 0.0;
  Doubles usual(channels);
  for (std::size_t c = 0; c < channels; ++c) {
    const double scale = std::abs(affine.scale[c]), shift = std::abs(affine.shift[c]);
    bound = std::max(bound, scale * result.reach[c] + shift);
    usual[c] = scale * result.usual[c] + shift;
  }
  if (fields.keep) expected = builder.usual(fields.norm, std::move(usual));
  check_added_size(builder, fields, result.pixels);
  if (fields.add) {
    bound += builder.bound(*fields.add);
    expected += builder.range(*fields.add);
  }
  builder.finite(bound);
  auto ending = std::make_shared<FloatEnding>();
  ending->integer = result.integers && !fields.add && !fields.keep;
  if (fields.keep) {
    const std::optional<double> clip = fields.relu ? fields.clip : std::nullopt;
    builder.write(result.pixels, clipped(bound, clip), clipped(expected, clip));
  }
  fold_codes(builder, affine, *ending);
  if (fields.codes) builder.write(result.pixels);
  ending->scale.assign(affine.scale.begin(), affine.scale.end());
  ending->shift.assign(affine.shift.begin(), affine.shift.end());
  ending->add = fields.add, ending->keep = fields.keep, ending->codes = fields.codes;
  ending->relu = fields.relu;
  ending->clip = fields.clip.value_or(kInfinity);
  return ending;
}

void Epilogue::fold_codes(const Builder& builder, const Affine& affine, FloatEnding& ending) const {
  const std::size_t channels = affine.scale.size();
  ending.sign.assign(channels, 1);
  if (!fields.quantizer) return;
  const Quantizer& quantizer = builder.quantizer(*fields.quantizer);
  Thresholds moved = thresholds_of(quantizer, channels);
  before_clip(moved, fields.codes_relu, fields.codes_clip);
  if (fields.codes_norm) {
    const Affine norm = builder.normed(fields.codes_norm, fields.codes_eps,
                                       {Doubles(channels, 1.0), Doubles(channels, 0.0)});
    before_affine(moved, norm.scale, norm.shift);
  }
  before_clip(moved, fields.relu, fields.clip);
  if (ending.integer) {
    before_affine(moved, affine.scale, affine.shift);
    ending.accumulated = to_integers(moved.threshold);
  } else {
    ending.compared = to_float32(moved.threshold);
  }
  ending.sign = moved.sign;
  ending.levels = quantizer.codes();
}

Tables FloatEnding::tables(const std::vector<std::int32_t>& correction, std::int64_t most) const {
  const std::size_t channels = scale.size();
  std::vector<std::int32_t> whole;
  std::vector<float> real;
  if (codes && integer) {
    for (std::size_t i = 0; i < accumulated.size(); ++i) {
      const std::size_t c = i % channels;
      const std::int64_t t = accumulated[i];
      const std::int64_t moved = (sign[c] < 0 ? -1 - t : t) + correction[c];
      constexpr std::int64_t kLow = std::numeric_limits<std::int32_t>::min();
      constexpr std::int64_t kHigh = std::numeric_limits<std::int32_t>::max();
      whole.push_back(static_cast<std::int32_t>(std::clamp(moved, kLow, kHigh)));
    }
  } else if (codes) {
    constexpr float kLowest = -std::numeric_limits<float>::infinity();
    for (std::size_t i = 0; i < compared.size(); ++i) {
      const float t = compared[i];
      real.push_back(sign[i % channels] < 0 ? std::nextafter(-t, kLowest) : t);
    }
  }
  std::vector<std::int32_t> step, base(channels, 0), signs(channels, 1);
  if (codes) {
    for (std::size_t k = 1; k < levels.size(); ++k) step.push_back(levels[k] - levels[k - 1]);
    for (std::size_t c = 0; c < channels; ++c) {
      base[c] = sign[c] < 0 ? levels.back() : levels.front();
      signs[c] = sign[c];
    }
  }
  EpilogueTables given = {};
  given.correction = correction.data();
  given.scale = scale.data();
  given.shift = shift.data();
  given.thresholds = static_cast<int>(step.size());
  given.threshold = integer ? static_cast<const void*>(whole.data()) : real.data();
  given.step = step.data();
  given.base = base.data();
  given.sign = signs.data();
  given.integer = integer && codes;
  given.low = relu ? 0.0f : -std::numeric_limits<float>::infinity();
  given.high = static_cast<float>(clip);
  given.add = add, given.keep = keep, given.codes = codes;
  return Tables(given, static_cast<int>(channels), most);
}

}  // namespace rsquant::packed
