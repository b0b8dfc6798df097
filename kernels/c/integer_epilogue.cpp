#include "integer_epilogue.h"

#include <algorithm>
#include <limits>

namespace rsquant::packed {
namespace {

// For which n the value slope n + shift exceeds a quantizer's thresholds.
IntegerThresholds level_thresholds(const Builder& builder, const Affine& affine,
                                   const Quantizer& quantizer, bool relu,
                                   std::optional<double> clip) {
  builder.exact_floats(affine, quantizer.scale);
  const auto bounds = bounds_of(quantizer);
  if (!bounds) builder.invalid("its quantizer has thresholds that are not halfway between levels");
  IntegerThresholds found =
      integer_thresholds(into_levels(affine.scale, affine.shift, quantizer.scale), *bounds);
  const std::size_t channels = found.sign.size();
  for (std::size_t k = 0; k < bounds->size(); ++k) {
    const std::int64_t bound = (*bounds)[k];
    std::optional<std::int32_t> all;
    if (bound >= kBeyond) all = kSumLimit + 1;
    if (bound <= -kBeyond) all = -kSumLimit - 1;
    if (relu && bound < 0) all = -kSumLimit - 1;  // nothing is negative
    if (clip && *clip <= quantizer.scale / 2 * static_cast<double>(bound)) all = kSumLimit + 1;
    if (all)
      std::fill_n(found.threshold.begin() + static_cast<std::ptrdiff_t>(k * channels), channels,
                  *all);
  }
  return found;
}

// 64 code > t  is  code > floor(t / 64); beyond the codes there are it says always or never.
std::vector<std::int32_t> of_codes(std::vector<std::int32_t> thresholds) {
  constexpr std::int32_t kLimit = kByteTop + 2;
  static_assert(kByteWeight == 64);
  for (std::int32_t& t : thresholds) t = std::clamp(t >> 6, -kLimit, kLimit);
  return thresholds;
}

}  // namespace

std::optional<int> read_zero(Fields& fields, const char* name) {
  const std::optional<int> value = fields.integer_or_none(name, 0, 128);
  if (value && *value != 0 && *value != 128) fields.wrong(name, "0 or 128");
  return value;
}

AnyEpilogue read_any_epilogue(Fields& fields) {
  if (fields.has("bytes")) return IntegerEpilogue::read(fields);
  return Epilogue::read(fields);
}

IntegerEpilogue IntegerEpilogue::read(Fields& fields) {
  IntegerEpilogue e;
  e.fields = read_ending(fields, "bytes");
  e.branch_zero_ = read_zero(fields, "branch_zero");
  e.scale_ = fields.text_or_none("scale");
  e.zero_ = read_zero(fields, "zero");
  const EndingFields& f = e.fields;
  const bool behind = f.codes_norm || f.codes_relu || f.codes_clip;
  const struct {
    bool wrong;
    const char* what;
  } rules[] = {
      {!f.keep && !f.codes, "writes neither 'bytes' nor 'codes'"},
      {f.codes.has_value() != f.quantizer.has_value(), "'codes' and 'quantizer' differ"},
      {e.scale_.has_value() != e.zero_.has_value(), "'scale' and 'zero' go together"},
      {!e.scale_ && f.keep, "'bytes' need a 'scale'"},
      {!e.scale_ && f.add, "'add' needs a 'scale'"},
      {!e.scale_ && behind, "'codes_norm' and what follows it need a 'scale'"},
      {!f.codes && behind, "'codes_norm' and what follows it need 'codes'"},
      {f.add.has_value() != e.branch_zero_.has_value(), "'add' and 'branch_zero' differ"},
  };
  for (const auto& rule : rules) {
    if (rule.wrong) throw FieldError{fields.where + ": " + rule.what};
  }
  return e;
}

void IntegerEpilogue::check(Checker& checker, int channels) const {
  checker.integers();
  checker.norm(fields.norm, channels);
  checker.norm(fields.codes_norm, channels);
  if (scale_) checker.byte_scale(*scale_);
  const ValueSpec* other = check_added(checker, fields, What::bytes, channels);
  if (other != nullptr && other->scale != *scale_) {
    checker.wrong("adds bytes of the scale '" + brief(other->scale) + "' to ones of '" +
                  brief(*scale_) + "'");
  }
  if (fields.keep) {
    checker.write(*fields.keep, {What::bytes, channels, std::nullopt, *scale_, *zero_});
  }
  check_codes(checker, fields, channels);
  if (fields.codes &&
      !bounds_of(checker.packed.quantizers[static_cast<std::size_t>(*fields.quantizer)])) {
    checker.wrong(text_of("quantizer ", *fields.quantizer,
                          " has thresholds that are not halfway between levels"));
  }
}

EndingPointer IntegerEpilogue::build(Builder& builder, Affine affine, Pair pixels) const {
  affine = builder.normed(fields.norm, fields.eps, std::move(affine));
  return scale_ ? build_bytes(builder, affine, pixels) : build_levels(builder, affine, pixels);
}

EndingPointer IntegerEpilogue::build_bytes(Builder& builder, const Affine& affine,
                                           Pair pixels) const {
  const double unit = builder.byte_scale(*scale_);
  builder.exact_floats(affine, unit);
  auto e = std::make_shared<ByteEnding>();
  const int branch = branch_zero_.value_or(*zero_);
  e->scaled = into_bytes(affine.scale, affine.shift, unit, branch > 0);
  check_added_size(builder, fields, pixels);
  e->add_zero = fields.add ? builder.value(*fields.add).fill : 0;
  e->zero = *zero_;
  e->least = fields.relu ? 0 : -e->zero;
  e->most = kByteTop - e->zero;
  if (fields.relu && fields.clip) e->most = std::min(e->most, clipped_at(*fields.clip, unit));
  e->low = fields.add ? -branch : e->least;
  e->high = fields.add ? kByteTop - branch : e->most;
  e->add = fields.add, e->keep = fields.keep, e->codes = fields.codes;
  const std::size_t channels = affine.scale.size();
  e->sign.assign(channels, 1);
  if (fields.keep) builder.write(pixels);
  if (fields.codes) {
    const Quantizer& quantizer = builder.quantizer(*fields.quantizer);
    const Affine code =
        builder.normed(fields.codes_norm, fields.codes_eps,
                       {Doubles(channels, unit / kByteWeight), Doubles(channels, 0.0)});
    const IntegerThresholds found =
        level_thresholds(builder, code, quantizer, fields.codes_relu,
                         fields.codes_relu ? fields.codes_clip : std::nullopt);
    e->thresholds = of_codes(found.threshold);
    e->sign = found.sign;
    e->levels = quantizer.codes();
    builder.write(pixels);
  }
  return e;
}

EndingPointer IntegerEpilogue::build_levels(Builder& builder, const Affine& affine,
                                            Pair pixels) const {
  const Quantizer& quantizer = builder.quantizer(*fields.quantizer);
  const IntegerThresholds found = level_thresholds(builder, affine, quantizer, fields.relu,
                                                   fields.relu ? fields.clip : std::nullopt);
  builder.write(pixels);
  auto e = std::make_shared<FloatEnding>();
  const std::size_t channels = affine.scale.size();
  e->scale.assign(channels, 1.0f);
  e->shift.assign(channels, 0.0f);
  e->codes = fields.codes;
  e->relu = false;
  e->clip = std::numeric_limits<double>::infinity();
  e->integer = true;
  e->accumulated = found.threshold;
  e->sign = found.sign;
  e->levels = quantizer.codes();
  return e;
}

EndingPointer IntegerEpilogue::build_map(Builder& builder, const Doubles& scale, int zero,
                                         Pair pixels) const {
  const std::size_t channels = scale.size();
  Affine affine = {scale, Doubles(channels, 0.0)};
  if (scale_) return build(builder, std::move(affine), pixels);
  // Each byte is what it was, and its code is compared.
  affine = builder.normed(fields.norm, fields.eps, std::move(affine));
  const Quantizer& quantizer = builder.quantizer(*fields.quantizer);
  const IntegerThresholds found = level_thresholds(builder, affine, quantizer, fields.relu,
                                                   fields.relu ? fields.clip : std::nullopt);
  builder.write(pixels);
  auto e = std::make_shared<ByteEnding>();
  e->scaled.factor.assign(channels, 1.0f / kByteWeight);
  e->scaled.bias.assign(channels, 0);
  e->add_zero = 0;
  e->zero = zero;
  e->low = e->least = -zero;
  e->high = e->most = kByteTop - zero;
  e->codes = fields.codes;
  e->thresholds = of_codes(found.threshold);
  e->sign = found.sign;
  e->levels = quantizer.codes();
  return e;
}

Tables ByteEnding::tables(const std::vector<std::int32_t>& correction, std::int64_t) const {
  constexpr int kSigned = 128;  // levels are compared as signed bytes: byte - 128
  const std::size_t channels = scaled.factor.size();
  const std::size_t count = levels.empty() ? 0 : levels.size() - 1;
  std::vector<std::int32_t> bias(channels);
  for (std::size_t c = 0; c < channels; ++c) {
    bias[c] = static_cast<std::int32_t>(static_cast<std::uint32_t>(scaled.bias[c]) -
                                        static_cast<std::uint32_t>(correction[c]));
  }
  // Where `sign` is -1,  -code > t  is  not (code > -t - 1): the level falls by its step there. A
  // threshold that all bytes exceed is part of the base.
  std::vector<std::int8_t> threshold(count * channels);
  std::vector<std::uint8_t> step(count * channels), base(channels);
  for (std::size_t c = 0; c < channels; ++c) {
    const bool falling = sign[c] < 0;
    int sum = levels.empty() ? 0 : falling ? levels.back() : levels.front();
    for (std::size_t k = 0; k < count; ++k) {
      const std::size_t i = k * channels + c;
      const int bound = (falling ? -1 - thresholds[i] : thresholds[i]) + zero - kSigned;
      int by = levels[k + 1] - levels[k];
      if (falling) by = -by;
      if (bound < -kSigned) {
        sum += by;
        by = 0;
      }
      threshold[i] = static_cast<std::int8_t>(std::clamp(bound, -kSigned, kSigned - 1));
      step[i] = static_cast<std::uint8_t>(by);
    }
    base[c] = static_cast<std::uint8_t>(sum);
  }
  ByteEpilogueTables e = {};
  e.given.bias = bias.data();
  e.given.factor = scaled.factor.data();
  e.given.low = static_cast<std::int16_t>(low), e.given.high = static_cast<std::int16_t>(high);
  e.given.offset = static_cast<std::int16_t>(zero - add_zero);
  e.given.least = static_cast<std::int16_t>(least + zero);
  e.given.most = static_cast<std::int16_t>(most + zero);
  e.given.thresholds = static_cast<int>(count);
  for (std::size_t k = 0; k < count; ++k) {
    e.given.threshold[k] = threshold.data() + k * channels;
    e.given.step[k] = step.data() + k * channels;
  }
  e.given.base = base.data();
  e.add = add, e.keep = keep, e.codes = codes;
  return Tables(e, static_cast<int>(channels));
}

}  // namespace rsquant::packed
