#include "plan.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <iterator>
#include <set>

#include "op.h"

namespace rsquant::packed {
namespace {

constexpr std::size_t kMostStages = 64, kMostPoints = 1000;

std::vector<double> thresholds_of(Fields& fields, int bits, int version) {
  if (version < kOffsets) {
    throw FieldError{text_of(fields.where, ": 'thresholds' are known from version ", kOffsets,
                             " of the format on, and the file has version ", version)};
  }
  const std::size_t count = (std::size_t{1} << bits) - 1;
  const std::vector<double> found = fields.reals("thresholds", count, count);
  if (!std::is_sorted(found.begin(), found.end())) {
    throw FieldError{fields.where + ": 'thresholds' must ascend"};
  }
  return found;
}

Quantizer quantizer_of(Fields fields, int version) {
  const int bits = fields.integer("bits", 1, kMostBits);
  const std::size_t count = static_cast<std::size_t>(bits);
  Quantizer quantizer = {bits, fields.integers("basis", -kMostLevel, kMostLevel, count, count),
                         fields.real("scale", kAnyReal, true), std::nullopt};
  if (fields.has("thresholds")) quantizer.own = thresholds_of(fields, bits, version);
  fields.finish();
  if (quantizer.limit() > kMostLevel) {
    throw FieldError{text_of(fields.where, ": its levels must span at most ", kMostLevel, ", got ",
                             quantizer.limit())};
  }
  return quantizer;
}

std::vector<Quantizer> quantizers_of(Fields& fields, const std::string& where, int version) {
  std::vector<Quantizer> found;
  for (const Json& value : fields.items("quantizers", 0, kMostSteps)) {
    found.push_back(
        quantizer_of(Fields(value, text_of(where, "quantizer ", found.size())), version));
  }
  return found;
}

void check_three(Fields& fields, const char* name, bool positive) {
  for (const Json& value : fields.items(name, 3, 3))
    fields.as_real(name, value, kAnyReal, positive);
}

Network network_of(Fields fields, int version) {
  Network network = {};
  for (const Json& value : fields.items("classes", 0, kMostChannels)) {
    const std::string* name = value.as<std::string>();
    if (name == nullptr) throw FieldError{"model: 'classes' must be names"};
    network.classes.push_back(one_line(*name));
  }
  fields.text("arch");
  network.wbits = fields.integer("wbits", 1, kMostBits);
  network.abits = fields.integer("abits", 1, kMostBits);
  network.resolutions = fields.integers("resolutions", 1, kMostSide, 1, kMostResolutions);
  network.num_classes = fields.integer("num_classes", 1, kMostChannels);
  check_three(fields, "mean", false);
  check_three(fields, "std", true);
  fields.text("grid");
  network.stride = fields.integer("stride", 1, kMostSide);
  if (fields.has("zero")) network.zero = fields.integer("zero", 0, kImageLimit);
  fields.finish();
  if (network.zero && version < kIntegers) {
    throw FieldError{text_of("model: 'zero' is known from version ", kIntegers,
                             " of the format on, and the file has version ", version)};
  }
  const std::vector<int>& sizes = network.resolutions;
  for (std::size_t i = 1; i < sizes.size(); ++i) {
    if (sizes[i - 1] <= sizes[i]) throw FieldError{"model: 'resolutions' must descend"};
  }
  if (!network.classes.empty() &&
      network.classes.size() != static_cast<std::size_t>(network.num_classes)) {
    throw FieldError{text_of("model: has ", network.classes.size(), " names of classes, but ",
                             network.num_classes, " classes")};
  }
  return network;
}

OpPointer step_of(Fields fields) {
  const std::string* kind = fields.take("op").as<std::string>();
  if (kind == nullptr) throw FieldError{fields.where + ": 'op' must be text"};
  std::string name = fields.text("name");
  fields.where += " (" + brief(name) + ")";
  OpPointer op = read_op(*kind, fields);
  fields.finish();
  op->name = std::move(name);
  return op;
}

std::vector<BitsSpec> bits_of(Fields& fields, int version) {
  if (version < kSeveralBits) {
    throw FieldError{text_of("'bits' are known from version ", kSeveralBits,
                             " of the format on, and the file has version ", version)};
  }
  std::vector<BitsSpec> found;
  for (const Json& value : fields.items("bits", 1, kMostBits * kMostBits)) {
    const std::string where = text_of("bits ", found.size());
    Fields one(value, where);
    const int wbits = one.integer("wbits", 1, kMostBits),
              abits = one.integer("abits", 1, kMostBits);
    found.push_back({wbits, abits, quantizers_of(one, where + ", ", version)});
    one.finish();
  }
  return found;
}

Fewer fewer_of(const Json& value, const std::string& where) {
  const Fields fields(value, where);
  Fewer found;
  for (const auto& [name, count] : *value.as<Members>()) {
    found[name] = fields.as_integer(brief(name).c_str(), count, 1, kMostChannels);
  }
  return found;
}

std::vector<WidthSpec> widths_of(Fields& fields, int version) {
  if (version < kWidths) {
    throw FieldError{text_of("'widths' are known from version ", kWidths,
                             " of the format on, and the file has version ", version)};
  }
  std::vector<WidthSpec> found;
  for (const Json& value : fields.items("widths", 1, kMostResolutions)) {
    Fields one(value, text_of("widths ", found.size()));
    WidthSpec spec = {one.real("width", kAnyReal, true), {}};
    const Members* steps = one.take("channels").as<Members>();
    if (steps == nullptr) {
      throw FieldError{one.where + ": 'channels' must be by name of a step"};
    }
    for (const auto& [name, counts] : *steps) {
      spec.channels[name] = fewer_of(counts, one.where + ", '" + brief(name) + "'");
    }
    one.finish();
    if (spec.width >= (found.empty() ? 1.0 : found.back().width)) {
      throw FieldError{"'widths' must be below 1 and descend"};
    }
    found.push_back(std::move(spec));
  }
  std::set<std::string> names;
  for (const WidthSpec& one : found) names.insert(width_name(one.width));
  if (names.size() < found.size()) {
    throw FieldError{"'widths' must differ in their first six digits"};
  }
  return found;
}

// A cascade is checked, and not used: the caller of the library picks sizes.
void check_cascade(Fields fields, const std::vector<int>& resolutions) {
  const auto wrong = [&](const char* what) { throw FieldError{fields.where + ": " + what}; };
  const Items& stages = fields.items("stages", 1, kMostStages);
  int before = 0;
  for (std::size_t i = 0; i < stages.size(); ++i) {
    Fields one(stages[i], text_of(fields.where, ".stages[", i, "]"));
    const int size = one.integer("resolution", 1, 1 << 16);
    const bool decides = one.real_or_none("threshold", 0.0).has_value();
    one.finish();
    if (size <= before) wrong("the sizes of its stages must ascend");
    if (std::find(resolutions.begin(), resolutions.end(), size) == resolutions.end()) {
      wrong("a stage has a size that the network has not");
    }
    if (decides == (i + 1 == stages.size())) wrong("all stages but the last must have a threshold");
    before = size;
  }
  std::vector<std::pair<double, double>> curve;
  const auto is_share = [](double top1) { return top1 >= 0 && top1 <= 1; };
  for (const Json& value : fields.items("curve", 0, kMostPoints)) {
    const Items* point = value.as<Items>();
    if (point == nullptr || point->size() != 2) wrong("'curve' must be pairs");
    curve.emplace_back(fields.as_real("curve", (*point)[0], kAnyReal, false),
                       fields.as_real("curve", (*point)[1], kAnyReal, false));
    if (!is_share(curve.back().second)) wrong("'curve' has shares of 0 to 1");
    if (curve.size() < 2) continue;
    const auto& last = curve[curve.size() - 2];
    if (last.first >= curve.back().first || last.second >= curve.back().second) {
      wrong("'curve' must ascend");
    }
  }
  fields.integer("model", 0, 0xFFFFFFFF);
  fields.text("data");
  fields.integer("images", 1, 0x7FFFFFFF);
  const double top1 = fields.real("top1", 0.0);
  fields.real("madds", 0.0);
  fields.finish();
  if (!is_share(top1)) wrong("'top1' is a share of 0 to 1");
}

}  // namespace

int Quantizer::zero() const {
  int sum = 0;
  for (const int q : basis) sum -= std::min(q, 0);
  return sum;
}

int Quantizer::limit() const {
  int sum = 0;
  for (const int q : basis) sum += std::abs(q);
  return sum;
}

std::vector<int> Quantizer::levels() const {
  std::vector<int> found = {0};
  for (const int q : basis) {
    for (std::size_t i = 0, n = found.size(); i < n; ++i) found.push_back(found[i] + q);
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::vector<std::uint8_t> Quantizer::codes() const {
  std::vector<std::uint8_t> found;
  for (const int level : levels()) found.push_back(static_cast<std::uint8_t>(level + zero()));
  return found;
}

std::vector<double> Quantizer::thresholds() const {
  if (own) return *own;
  const std::vector<int> sorted = levels();
  std::vector<double> found;
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    found.push_back(static_cast<double>(sorted[i - 1] + sorted[i]) * (0.5 * scale));
  }
  return found;
}

Plan read_plan(const Json& metadata) {
  Fields fields(metadata, "the metadata");
  fields.take("format");  // was looked at before
  Plan plan = {};
  plan.version = fields.integer("version", 1, kVersion);
  plan.network = network_of(Fields(fields.take("model"), "model"), plan.version);
  fields.text("rsquant");
  plan.quantizers = quantizers_of(fields, "", plan.version);
  auto steps = std::make_shared<Steps>();
  for (const Json& value : fields.items("steps", 1, kMostSteps)) {
    steps->push_back(step_of(Fields(value, text_of("step ", steps->size()))));
  }
  plan.steps = std::move(steps);
  if (fields.has("bits")) plan.bits = bits_of(fields, plan.version);
  if (fields.has("widths")) plan.widths = widths_of(fields, plan.version);
  if ((plan.bits.size() + 1) * (plan.widths.size() + 1) > kMostSettings) {
    throw FieldError{
        text_of("'bits' and 'widths' must be at most ", kMostSettings, " settings in all")};
  }
  plan.cascade = fields.has("cascade");
  if (plan.cascade) {
    if (plan.version < kCascade) {
      throw FieldError{text_of("the metadata: 'cascade' is known from version ", kCascade,
                               " of the format on, and the file has version ", plan.version)};
    }
    check_cascade(Fields(fields.take("cascade"), "cascade"), plan.network.resolutions);
  }
  fields.finish();
  return plan;
}

std::string width_name(double width) {
  // As "%g", whatever the program's locale.
  char text[32];
  return {text, std::to_chars(text, std::end(text), width, std::chars_format::general, 6).ptr};
}

OpPointer read_op(const std::string& kind, Fields& fields) {
  struct Known {
    const char* kind;
    int since;
    OpPointer (*read)(Fields&);
  };
  static const Known kKnown[] = {
      {"conv", 1, read_conv},
      {"map", 1, read_map},
      {"maxpool", 1, read_maxpool},
      {"avgpool", 1, read_avgpool},
      {"linear", 1, read_linear},
      {"avgpool2d", 4, read_avgpool2d},
      {"adaptive_avgpool", 4, read_adaptive_avgpool},
      {"adaptive_maxpool", 4, read_adaptive_maxpool},
      {"pad", 4, read_pad},
      {"extend", 4, read_extend},
      {"resize", 4, read_resize},
      {"flatten", 4, read_flatten},
      {"concat", 4, read_concat},
      {"function", 4, read_function},
      {"binary", 4, read_binary},
      {"channels", 4, read_channels},
  };
  for (const Known& known : kKnown) {
    if (kind != known.kind) continue;
    OpPointer op = known.read(fields);
    op->kind = known.kind;
    op->since = known.since;
    return op;
  }
  throw UnsupportedOperation{kind};
}

}  // namespace rsquant::packed
