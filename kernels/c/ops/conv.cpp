// A convolution of the image, of codes, bytes or float values, and what follows it. Weights are
// bit planes, or int8: of integer networks' images, and of heads that give a map. Only such heads
// give floats of bytes.

#include <bit>
#include <cmath>
#include <cstring>

#include "integer_epilogue.h"
#include "op.h"
#include "variants.h"

namespace rsquant::packed {
namespace {

constexpr std::int64_t kInt32 = 0x7FFFFFFF;
// Below this a fixed-point input is 0: its reciprocal would overflow.
constexpr double kSmallestInput = 1e-30;
// Of a convolution's fixed-point input: two signed bytes, low + 256 high.
constexpr std::int64_t kMostFixed = 127 * 256 + 127;

struct ConvOp : Op {
  int input, in_channels, out_channels, groups;
  Pair kernel, stride, dilation;
  Padding padding;
  AnyEpilogue epilogue;

  Pair extent() const { return extent_of(kernel, dilation); }
  // Products per output value.
  std::int64_t taps() const { return std::int64_t{kernel[0]} * kernel[1] * (in_channels / groups); }
  bool is_integer() const { return std::holds_alternative<IntegerEpilogue>(epilogue); }

  void check(Checker& checker) const override {
    const ValueSpec source = checker.read(input);
    checker.padding(padding);
    if (source.what == What::real) {
      checker.since(kFloatInputs, text_of("needs the image or codes, ", input,
                                          " is float, which convolutions read"));
    }
    if (source.channels != in_channels) {
      checker.wrong(text_of("reads ", source.channels, " channels, in_channels=", in_channels));
    }
    if ((source.what == What::real && is_integer()) ||
        (source.what == What::bytes && !is_integer() && !has_whole_weight(checker))) {
      checker.wrong(
          text_of(input, " is ", name_of(source.what), ", and its epilogue has the other"));
    }
    if (source.what == What::image) {
      check_image(checker);
    } else {
      check_weight(checker, source);
    }
    checker.scales(name, out_channels, source.what == What::image);
    std::visit([&](const auto& e) { e.check(checker, out_channels); }, epilogue);
  }

  void check_image(Checker& checker) const {
    if (groups != 1) checker.wrong("a convolution of the image has one group");
    const std::optional<int> zero = checker.packed.network.zero;
    if (is_integer() == !zero) {
      checker.wrong("the image has a 'zero' where its convolutions are of integers");
    }
    if (zero) {
      check_image_bytes(checker, std::max(*zero, kImageLimit - *zero));
    } else {
      check_image_words(checker);
    }
  }

  // The largest sum of sizes of the weights of a channel.
  template <class T>
  std::int64_t largest_sum(std::span<const T> weight) const {
    const std::size_t row = weight.size() / static_cast<std::size_t>(out_channels);
    std::int64_t most = 0;
    for (std::size_t at = 0; at < weight.size(); at += row) {
      std::int64_t sum = 0;
      for (const T w : weight.subspan(at, row)) sum += std::abs(static_cast<std::int64_t>(w));
      most = std::max(most, sum);
    }
    return most;
  }

  void check_image_words(Checker& checker) const {
    const std::string tensor = name + ".weight";
    const auto weight =
        checker.tensor(tensor, Type::i16, {out_channels, kernel[0], kernel[1], kImageChannels})
            .numbers<std::int16_t>();
    for (const std::int16_t w : weight) {
      if (w < -kImageWeight) {
        checker.wrong(text_of("'", brief(tensor), "' has values below -", kImageWeight));
      }
    }
    const std::int64_t largest = largest_sum(weight) * kImageLimit;
    if (largest > kInt32) {
      checker.wrong(
          text_of("'", brief(tensor), "' has sums of up to ", largest, ", which overflow 32 bits"));
    }
  }

  // int8 weights, of pixels of at most `largest` in size.
  void check_image_bytes(Checker& checker, int largest) const {
    const std::string tensor = name + ".weight";
    const auto weight =
        checker.tensor(tensor, Type::i8, {out_channels, kernel[0], kernel[1], kImageChannels - 1})
            .numbers<std::int8_t>();
    for (const std::int8_t w : weight) {
      if (std::abs(w) > kWeightLimit) {
        checker.wrong(text_of("'", brief(tensor), "' has values beyond ", kWeightLimit));
      }
    }
    checker.exact(largest_sum(weight) * largest);
    Words& words = checker.packed.words[name] = {{}, kWeightLimit};
    for (std::size_t at = 0; at < weight.size(); ++at) {
      words.levels.push_back(weight[at]);
      if (at % 3 == 2) words.levels.push_back(0);
    }
  }

  // Whether the weights are int8, not bit planes, of a convolution that does not read the image.
  bool has_whole_weight(const Checker& checker) const {
    const Tensor* weight = checker.find(name + ".weight");
    return weight != nullptr && weight->type == Type::i8 &&
           checker.find(name + ".basis") == nullptr;
  }

  void check_weight(Checker& checker, const ValueSpec& source) const {
    const bool whole = has_whole_weight(checker);
    if (whole && source.what == What::bytes) check_byte_maps(checker);
    Digits* digits = nullptr;
    if (!whole) digits = &check_levels(checker);
    const std::int64_t limit = whole ? check_whole_weight(checker) : digits->largest;
    // Fixed-point inputs of fewer than 8 bits would not be worth it.
    int inputs = kMostLevel, levels = kMostLevel, zero = source.zero;
    if (source.quantizer) {
      const Quantizer& q = checker.packed.quantizers[static_cast<std::size_t>(*source.quantizer)];
      inputs = q.limit();
      levels = std::max(q.zero(), inputs - q.zero());
      zero = q.zero();
    } else if (source.what == What::bytes) {
      inputs = kImageLimit;
      levels = std::max(source.zero, inputs - source.zero);
      if (limit > kWeightLimit) {
        checker.wrong(text_of("reads bytes with levels up to ", limit, ", beyond ", kWeightLimit));
      }
    }
    const std::int64_t largest = limit * inputs;
    if (taps() * largest > kInt32) {
      checker.wrong(text_of(taps(), " products of up to ", largest, " overflow 32 bits"));
    }
    if (source.what != What::real && is_integer()) checker.exact(taps() * limit * levels);
    if (zero != 0 && !whole) {
      digits->sums = sums_of(*digits, checker.packed.tensors.at(name + ".weight"));
    }
  }

  // Whether int8 weights may be of bytes.
  void check_byte_maps(Checker& checker) const {
    const std::string tensor = name + ".weight";
    checker.since(kByteMaps, "'" + brief(tensor) + "' of int8 is of bytes");
    if (in_channels == kImageChannels && groups == 1) {
      // Kernels would take it for the image's.
      checker.wrong(text_of("'", brief(tensor), "' of int8 cannot be of ", kImageChannels,
                            " channels of bytes"));
    }
  }

  // int8 weights in place of bit planes; the largest.
  int check_whole_weight(Checker& checker) const {
    const std::string tensor = name + ".weight";
    checker.since(kMaps, "'" + brief(tensor) + "' of int8 is known");
    const auto weight =
        checker.tensor(tensor, Type::i8, {out_channels, kernel[0], kernel[1], in_channels / groups})
            .numbers<std::int8_t>();
    Words& words = checker.packed.words[name] = {{weight.begin(), weight.end()}, 0};
    for (const int w : words.levels) words.largest = std::max(words.largest, std::abs(w));
    if (words.largest > kMostLevel) {
      checker.wrong(text_of("'", brief(tensor), "' has values beyond ", kMostLevel, " in size"));
    }
    return words.largest;
  }

  // Of the levels of each channel: sum over taps of offset + sum_k basis_k bit_k
  // = taps offset + sum_k basis_k popcount_k.
  std::vector<std::int64_t> sums_of(const Digits& digits, const Tensor& planes) const {
    const auto bytes = planes.numbers<std::uint8_t>();
    const std::size_t row = static_cast<std::size_t>(planes.shape[2]);
    const std::size_t channels = static_cast<std::size_t>(out_channels);
    std::vector<std::int64_t> sums;
    for (std::size_t o = 0; o < channels; ++o) sums.push_back(taps() * digits.offset[o]);
    for (std::size_t k = 0; k < static_cast<std::size_t>(digits.bits); ++k) {
      for (std::size_t o = 0; o < channels; ++o) {
        const std::uint8_t* at = bytes.data() + (k * channels + o) * row;
        std::int64_t ones = 0;
        for (std::size_t i = 0; i < row; i += 8) {
          std::uint64_t word;
          std::memcpy(&word, at + i, 8);
          ones += std::popcount(word);
        }
        sums[o] += ones * digits.basis[o * static_cast<std::size_t>(digits.bits) + k];
      }
    }
    return sums;
  }

  // Bit planes, bases and offsets.
  Digits& check_levels(Checker& checker) const {
    const std::string basis_name = name + ".basis";
    const Tensor& basis = check_basis(checker, basis_name);
    const std::int64_t bits = basis.shape[1];
    if (bits > kMostBits) {
      checker.wrong(text_of("'", brief(basis_name), "' has ", bits, " bits, at most ", kMostBits,
                            " are known"));
    }
    Digits& digits = checker.packed.digits[name];
    digits = digits_of(basis, checker.find(name + ".offset"));
    if (digits.largest > kMostLevel) {
      checker.wrong(text_of("'", brief(basis_name), "' has levels up to ", digits.largest,
                            ", at most ", kMostLevel, " fit"));
    }
    check_bits(checker, bits);
    return digits;
  }

  void check_bits(Checker& checker, std::int64_t bits) const {
    const std::string tensor = name + ".weight";
    const std::int64_t row = 8 * ((taps() + 63) / 64);
    const auto planes =
        checker.tensor(tensor, Type::u8, {bits, out_channels, row}).numbers<std::uint8_t>();
    // The padding bits: the bytes after the last product's, and the upper bits of its own.
    const std::size_t whole = static_cast<std::size_t>(taps() / 8);
    const int rest = static_cast<int>(taps() % 8);
    bool spare = false;
    for (std::size_t at = 0; at < planes.size(); at += static_cast<std::size_t>(row)) {
      const auto one = planes.subspan(at, static_cast<std::size_t>(row));
      if (rest > 0) spare = spare || one[whole] >> rest != 0;
      for (const std::uint8_t byte : one.subspan(whole + (rest > 0))) spare = spare || byte != 0;
    }
    if (spare) checker.wrong("'" + brief(tensor) + "' has padding bits that are not 0");
  }

  // The basis, int8, or beside an offset int16.
  const Tensor& check_basis(Checker& checker, const std::string& tensor) const {
    const std::string offset = name + ".offset";
    if (checker.find(offset) == nullptr) {
      return checker.tensor(tensor, Type::i8, {out_channels, -1});
    }
    checker.since(kOffsets, "'" + brief(offset) + "' is known");
    checker.tensor(offset, Type::i8, {out_channels});
    return checker.tensor(tensor, Type::i16, {out_channels, -1});
  }

  // A file without offsets stores half the basis: level = sum_k p_k (2 b_k - 1).
  static Digits digits_of(const Tensor& basis, const Tensor* offset) {
    const std::size_t bits = static_cast<std::size_t>(basis.shape[1]);
    Digits found = {{}, {}, static_cast<int>(bits), 0, {}};
    for (std::size_t o = 0; o < static_cast<std::size_t>(basis.shape[0]); ++o) {
      int base = 0, top = 0, bottom = 0;
      if (offset != nullptr) base = offset->numbers<std::int8_t>()[o];
      for (std::size_t k = 0; k < bits; ++k) {
        int p = 0;
        if (offset == nullptr) {
          p = 2 * basis.numbers<std::int8_t>()[o * bits + k];
          base -= p / 2;
        } else {
          p = basis.numbers<std::int16_t>()[o * bits + k];
        }
        found.basis.push_back(static_cast<std::int16_t>(p));
        top += std::max(p, 0), bottom += std::min(p, 0);
      }
      found.offset.push_back(static_cast<std::int8_t>(base));
      found.largest = std::max({found.largest, base + top, -(base + bottom)});
    }
    return found;
  }

  std::shared_ptr<const Op> narrower(Narrowing& to) const override {
    auto part = std::make_shared<ConvOp>(*this);
    part->in_channels = to.count("in_channels", in_channels);
    part->out_channels = to.count("out_channels", out_channels);
    part->groups = to.count("groups", groups);
    check_groups(*part, [&](const std::string& what) { to.wrong(what); });
    const int most = in_channels / groups, inputs = part->in_channels / part->groups;
    if (inputs > most) {
      to.wrong(text_of("a group must have at most ", most, " input channels, got ", inputs));
    }
    const int outputs = part->out_channels;
    Tensor& weight = *to.find(name + ".weight");
    if (weight.type == Type::u8) {  // bit planes
      weight = first_bits(weight, outputs, std::int64_t{kernel[0]} * kernel[1], most, inputs);
      Tensor& basis = *to.find(name + ".basis");
      basis = first_of(basis, {outputs, -1});
      if (Tensor* offset = to.find(name + ".offset")) *offset = first_of(*offset, {outputs});
    } else {
      weight = first_of(weight, {outputs, -1, -1, inputs});
    }
    for (const char* what : {".scale", ".bias"}) {
      if (Tensor* tensor = to.find(name + what)) *tensor = first_of(*tensor, {outputs});
    }
    return part;
  }

  void build(Builder& builder) const override {
    const ValueAt source = builder.value(input);
    const Sides pads = padding.at(source.pixels(), extent(), stride);
    const Pair pixels = {output_side(source.height, pads[0], pads[2], extent()[0], stride[0]),
                         output_side(source.width, pads[1], pads[3], extent()[1], stride[1])};
    if (pixels[0] < 1 || pixels[1] < 1) builder.too_small();
    Folding f =
        source.what == What::image ? fold_image(builder, source) : fold_map(builder, source);
    f.form.groups = groups, f.form.in_channels = in_channels, f.form.out_channels = out_channels;
    f.form.kernel_h = kernel[0], f.form.kernel_w = kernel[1];
    f.form.stride_h = stride[0], f.form.stride_w = stride[1];
    f.form.pad_h = pads[0], f.form.pad_w = pads[1];
    f.form.dilation_h = dilation[0], f.form.dilation_w = dilation[1];
    f.form.real = source.what == What::real;
    f.form.pixel_bytes = (in_channels + 3) / 4 * 4;
    const std::size_t channels = static_cast<std::size_t>(out_channels);
    Affine affine = {std::move(f.scale), Doubles(channels, 0.0)};
    const auto bias = builder.packed.tensors.find(name + ".bias");
    if (bias != builder.packed.tensors.end()) {
      const auto numbers = bias->second.numbers<float>();
      affine.shift.assign(numbers.begin(), numbers.end());
    }
    EndingPointer ending;
    if (const Epilogue* e = std::get_if<Epilogue>(&epilogue)) {
      ending = e->build(builder, {std::move(affine), f.reach, f.reach, pixels, true});
    } else {
      ending = std::get<IntegerEpilogue>(epilogue).build(builder, std::move(affine), pixels);
    }
    const std::size_t number = builder.folded.convolutions.size();
    builder.folded.convolutions.push_back(
        {name, f.form, f.source, input, builder.folded.steps.size()});
    const std::int64_t most = taps() * f.form.input_limit * f.form.weight_limit;
    builder.add([form = f.form, source = f.source, correction = std::move(f.correction),
                 inverse_step = f.inverse_step, ending, number, most,
                 input = input](Program& program, const Choices& choices) {
      add_conv(program, *choices[number].kernel, form, static_cast<float>(inverse_step), input,
               choices[number].prepared, source, ending->tables(correction, most));
    });
  }

  // wrong: called with what does not fit.
  template <class Wrong>
  static void check_groups(const ConvOp& op, const Wrong& wrong) {
    if (op.in_channels % op.groups == 0 && op.out_channels % op.groups == 0) return;
    wrong(text_of("groups must divide the channels, got groups=", op.groups,
                  ", in_channels=", op.in_channels, ", out_channels=", op.out_channels));
  }

  // What depends on the kind of the input.
  struct Folding {
    ConvShape form = {};
    ConvWeights source = {};
    Doubles scale, reach;
    std::vector<std::int32_t> correction;
    double inverse_step = 0.0;
  };

  Doubles scale_of(const Builder& builder) const {
    const auto scale = builder.tensor(name + ".scale").numbers<float>();
    return {scale.begin(), scale.end()};
  }

  Folding fold_image(const Builder& builder, const ValueAt& image) const {
    Folding f;
    const auto words = builder.packed.words.find(name);
    const bool integer = words != builder.packed.words.end();
    f.source.words = integer ? words->second.levels.data()
                             : builder.tensor(name + ".weight").numbers<std::int16_t>().data();
    f.form.weight_limit = integer ? kWeightLimit : kImageWeight;
    f.form.input_limit = kImageLimit;
    f.scale = scale_of(builder);
    const std::size_t row = static_cast<std::size_t>(kernel[0]) * kernel[1] * kImageChannels;
    for (std::size_t o = 0; o < static_cast<std::size_t>(out_channels); ++o) {
      std::int64_t above = 0, below = 0;
      for (std::size_t i = 0; i < row; ++i) {
        const std::int64_t w = f.source.words[o * row + i];
        (w > 0 ? above : below) += w;
      }
      f.reach.push_back(kImageLimit * static_cast<double>(std::max(above, -below)));
      f.correction.push_back(static_cast<std::int32_t>(image.fill * (above + below)));
    }
    return f;
  }

  // Of codes, bytes or floats.
  Folding fold_map(const Builder& builder, const ValueAt& source) const {
    Folding f;
    const auto words = builder.packed.words.find(name);
    const bool whole = words != builder.packed.words.end();
    const int largest =
        whole ? with_words(f, words->second, source) : with_planes(f, builder, source);
    // Of a basis of zeros, 1 is a limit too, and kernels need one.
    f.form.weight_limit = std::max(1, largest);
    const std::optional<int> quantizer = builder.spec(input).quantizer;
    double unit = 0.0;
    if (source.what == What::real) {
      const std::int64_t limit =
          std::min(kMostFixed, kInt32 / std::max<std::int64_t>(1, taps() * f.form.weight_limit));
      f.form.input_limit = static_cast<int>(limit);
      const double largest = builder.range(input);
      if (largest >= kSmallestInput) {  // else as good as 0
        f.inverse_step = static_cast<float>(static_cast<double>(limit) / largest);
        unit = 1.0 / f.inverse_step;
      }
    } else {
      unit = builder.unit(input).scale;
      f.form.input_limit = kImageLimit;
    }
    if (quantizer) {
      const Quantizer& q = builder.quantizer(*quantizer);
      f.form.input_limit = std::max(1, q.limit());
      f.form.input_bits = static_cast<int>(q.basis.size());
      std::copy(q.basis.begin(), q.basis.end(), f.form.input_basis);
    }
    f.scale = scale_of(builder);
    for (double& scale : f.scale) scale *= unit;
    const std::size_t channels = static_cast<std::size_t>(out_channels);
    const std::int64_t reach = taps() * f.form.weight_limit * f.form.input_limit;
    f.reach.assign(channels, static_cast<double>(reach));
    return f;
  }

  // The weights of bit planes, and what the byte of 0 adds to sums; the largest level.
  int with_planes(Folding& f, const Builder& builder, const ValueAt& source) const {
    const Digits& digits = builder.packed.digits.at(name);
    const Tensor& planes = builder.tensor(name + ".weight");
    f.source.planes = planes.data;
    f.source.basis = digits.basis.data();
    f.source.offset = digits.offset.data();
    f.source.bits = digits.bits;
    f.source.plane_bytes = planes.shape[2];
    f.form.weight_bits = digits.bits;
    f.correction.assign(static_cast<std::size_t>(out_channels), 0);
    if (source.fill == 0 || digits.sums.empty()) return digits.largest;
    for (std::size_t o = 0; o < f.correction.size(); ++o) {
      f.correction[o] = static_cast<std::int32_t>(source.fill * digits.sums[o]);
    }
    return digits.largest;
  }

  // The same of int8 weights.
  int with_words(Folding& f, const Words& words, const ValueAt& source) const {
    f.source.words = words.levels.data();
    const std::size_t row = static_cast<std::size_t>(taps());
    for (std::size_t o = 0; o < static_cast<std::size_t>(out_channels); ++o) {
      std::int64_t sum = 0;
      for (std::size_t i = 0; i < row; ++i) sum += words.levels[o * row + i];
      f.correction.push_back(static_cast<std::int32_t>(source.fill * sum));
    }
    return words.largest;
  }
};

}  // namespace

OpPointer read_conv(Fields& fields) {
  auto op = std::make_unique<ConvOp>();
  op->input = fields.integer("input", 0, kLastValue);
  op->in_channels = fields.integer("in_channels", 1, kMostChannels);
  op->out_channels = fields.integer("out_channels", 1, kMostChannels);
  op->kernel = fields.pair("kernel", 1, kMostKernel);
  op->stride = fields.pair("stride", 1, kMostKernel);
  op->dilation = fields.pair("dilation", 1, kMostKernel);
  op->padding = read_padding(fields);
  op->groups = fields.integer("groups", 1, kMostChannels);
  ConvOp::check_groups(
      *op, [&](const std::string& what) { throw FieldError{fields.where + ": " + what}; });
  op->epilogue = read_any_epilogue(fields);
  if (op->padding.reaches(op->extent())) {
    throw FieldError{fields.where + ": padding must be smaller than the (dilated) kernel"};
  }
  return op;
}

}  // namespace rsquant::packed
