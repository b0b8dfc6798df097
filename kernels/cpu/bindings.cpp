// rsquant.kernels._cpu: numpy arrays in, plain pointers on. What a user can get wrong is checked
// in rsquant/kernels/__init__.py, with messages that say what to do; here the types hold.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>

#include "dispatch.h"
#include "program.h"
#include "released.h"

namespace nb = nanobind;

namespace {

using Input = nb::ndarray<nb::numpy, const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<nb::numpy, float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Sums = nb::ndarray<nb::numpy, double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

const rsquant::Isa& isa_named(const std::string& name) {
  for (const rsquant::Isa& isa : rsquant::instruction_sets()) {
    if (name != isa.name) continue;
    // Running it would end the process with an illegal instruction.
    if (!isa.unusable.empty()) throw std::invalid_argument(name + ": " + isa.unusable);
    return isa;
  }
  throw std::invalid_argument("no instruction set is called '" + name + "'");
}

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

nb::list instruction_sets() {
  nb::list found;
  for (const rsquant::Isa& isa : rsquant::instruction_sets()) {
    found.append(nb::make_tuple(isa.name, isa.unusable));
  }
  return found;
}

void quantize_stats(const std::string& isa, Input x, Input levels, Input thresholds, Output out,
                    Counts counts, Sums sums, int threads) {
  const std::size_t count = levels.size();
  require(count == 2 || count == 4 || count == 8 || count == 16, "levels: 2, 4, 8 or 16");
  require(thresholds.size() + 1 == count, "thresholds: one fewer than levels");
  require(out.size() == x.size(), "out: as many values as x");
  require(counts.size() == count && sums.size() == count, "counts and sums: one per level");
  require(threads >= 1, "threads: at least 1");
  const rsquant::Kernels& kernels = isa_named(isa).table->kernels;

  rsquant::Levels table = {};
  table.count = static_cast<int>(count);
  for (std::size_t k = 0; k < count; ++k) table.levels[k] = levels.data()[k];
  for (std::size_t k = 0; k + 1 < count; ++k) table.thresholds[k] = thresholds.data()[k];

  rsquant::LevelStats stats;
  {
    rsquant::Released released;
    rsquant::quantize(kernels, x.data(), x.size(), table, out.data(), threads, stats);
  }
  for (std::size_t k = 0; k < count; ++k) {
    counts.data()[k] = stats.counts[k];
    sums.data()[k] = stats.sums[k];
  }
}

void clip_gradient(const std::string& isa, Input grad, Input x, float bottom, float top, Output out,
                   int threads) {
  require(grad.size() == x.size() && out.size() == x.size(), "grad, x, out: equally many values");
  require(threads >= 1, "threads: at least 1");
  const rsquant::Kernels& kernels = isa_named(isa).table->kernels;
  rsquant::Released released;
  rsquant::clip_gradient(kernels, grad.data(), x.data(), x.size(), bottom, top, out.data(),
                         threads);
}

// GMAC/s of a loop on registers, on the calling thread; the best of some runs.
double peak(const std::string& isa, const std::string& mix) {
  const rsquant::Peak& loops = isa_named(isa).table->peak;
  require(mix == "bytes" || mix == "words" || mix == "bits", "mix: bytes, words or bits");
  const auto loop = mix == "bytes" ? loops.bytes : mix == "words" ? loops.words : loops.bits;
  rsquant::Released released;
  double best = 0.0;
  for (int run = 0; run < 5; ++run) {
    const auto start = std::chrono::steady_clock::now();
    const double products = static_cast<double>(loop(20000));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, products / seconds.count() / 1e9);
  }
  return best;
}

// --- Programs ---

template <class T, int Dimensions>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;

// groups, in_channels, out_channels, kernel h w, stride h w, padding above and to the left,
// dilation h w, largest input byte (or fixed-point number), largest weight level, whether the
// input is float (1 or 0), planes of the weights (0: levels), bits of the input (0: any byte), its
// basis (4 numbers).
rsquant::ConvShape shape_from(const std::vector<int>& n) {
  require(n.size() == 20, "geometry: 20 numbers");
  rsquant::ConvShape s = {};
  s.groups = n[0], s.in_channels = n[1], s.out_channels = n[2];
  s.kernel_h = n[3], s.kernel_w = n[4], s.stride_h = n[5], s.stride_w = n[6];
  s.pad_h = n[7], s.pad_w = n[8], s.dilation_h = n[9], s.dilation_w = n[10];
  s.input_limit = n[11], s.weight_limit = n[12], s.real = n[13] != 0;
  s.weight_bits = n[14], s.input_bits = n[15];
  for (int j = 0; j < 4; ++j) s.input_basis[j] = n[16 + static_cast<std::size_t>(j)];
  for (const int i : {0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 12}) {
    require(n[static_cast<std::size_t>(i)] >= 1, "geometry: 1 or more");
  }
  require(s.pad_h >= 0 && s.pad_w >= 0, "geometry: padding 0 or more");
  require(s.in_channels % s.groups == 0 && s.out_channels % s.groups == 0,
          "geometry: groups must divide the channels");
  require(s.input_limit <= (s.real ? 32767 : 255) && s.weight_limit <= 32767,
          "geometry: limits of levels");
  require(!s.real || s.weight_bits > 0, "geometry: floats meet bit planes");
  require(s.weight_bits >= 0 && s.weight_bits <= 4 && s.input_bits >= 0 && s.input_bits <= 4,
          "geometry: bits");
  for (const int q : s.input_basis) require(q >= -127 && q <= 127, "geometry: basis");
  return s;
}

// Weights as a file holds them. The arrays must outlive what is made of them.
struct Source {
  rsquant::ConvWeights weights = {};
  nb::object keep_planes, keep_basis, keep_offset;
};

Source source_from_planes(Array<const std::uint8_t, 3> planes, Array<const std::int16_t, 2> basis,
                          Array<const std::int8_t, 1> offset) {
  require(planes.shape(0) == basis.shape(1) && planes.shape(1) == basis.shape(0),
          "planes (K, O, R) and basis (O, K)");
  require(offset.shape(0) == basis.shape(0), "basis (O, K) and offset (O)");
  require(planes.shape(0) >= 1 && planes.shape(0) <= 4, "planes: 1 to 4");
  require(planes.shape(2) % 8 == 0, "planes: rows of whole 64-bit words");
  Source s;
  s.weights.planes = planes.data();
  s.weights.basis = basis.data();
  s.weights.offset = offset.data();
  s.weights.bits = static_cast<int>(planes.shape(0));
  s.weights.plane_bytes = static_cast<std::int64_t>(planes.shape(2));
  s.keep_planes = nb::cast(planes);
  s.keep_basis = nb::cast(basis);
  s.keep_offset = nb::cast(offset);
  return s;
}

Source source_from_words(Array<const std::int16_t, 4> levels) {
  Source s;
  s.weights.words = levels.data();
  s.keep_planes = nb::cast(levels);
  return s;
}

void check_source(const Source& source, const rsquant::ConvShape& s) {
  const std::int64_t n =
      static_cast<std::int64_t>(s.kernel_h) * s.kernel_w * (s.in_channels / s.groups);
  const rsquant::ConvWeights& w = source.weights;
  require(w.bits == s.weight_bits, "weights: bits of the geometry");
  require(w.words != nullptr || s.weight_limit <= 127, "geometry: levels of bit planes");
  if (w.planes != nullptr) {
    const auto planes = nb::cast<Array<const std::uint8_t, 3>>(source.keep_planes);
    require(static_cast<int>(planes.shape(1)) == s.out_channels, "planes: rows of all channels");
    require(w.plane_bytes * 8 >= n && w.plane_bytes * 8 < n + 64, "planes: bytes of a row");
  } else {
    const auto levels = nb::cast<Array<const std::int16_t, 4>>(source.keep_planes);
    require(static_cast<std::int64_t>(levels.size()) == n * s.out_channels, "levels: size");
  }
}

const rsquant::ConvKernel& kernel_named(const rsquant::Isa& isa, const std::string& name) {
  for (const rsquant::ConvKernel* kernel : isa.table->conv) {
    if (kernel != nullptr && name == kernel->name) return *kernel;
  }
  throw std::invalid_argument("no convolution kernel is called '" + name + "'");
}

// The kernels that can compute a convolution exactly, the one to use untimed first.
std::vector<std::string> conv_kernels(const std::string& isa, const std::vector<int>& geometry) {
  const rsquant::ConvShape shape = shape_from(geometry);
  std::vector<std::string> names;
  for (const rsquant::ConvKernel* kernel : isa_named(isa).table->conv) {
    if (kernel != nullptr && takes(*kernel, shape)) names.emplace_back(kernel->name);
  }
  return names;
}

std::vector<std::string> all_conv_kernels(const std::string& isa) {
  std::vector<std::string> names;
  for (const rsquant::ConvKernel* kernel : isa_named(isa).table->conv) {
    if (kernel != nullptr) names.emplace_back(kernel->name);
  }
  return names;
}

bool low_memory(const std::string& isa, const std::string& kernel) {
  return kernel_named(isa_named(isa), kernel).low_memory;
}

// Weights in a kernel's own layout; the same for all sizes.
struct Prepared {
  rsquant::Buffer buffer;
  std::string kernel;
};

std::shared_ptr<Prepared> prepare(const std::string& isa, const std::string& kernel,
                                  const std::vector<int>& geometry, int pixel_bytes,
                                  const Source& source) {
  rsquant::ConvShape shape = shape_from(geometry);
  shape.pixel_bytes = pixel_bytes;
  check_source(source, shape);
  const rsquant::ConvKernel& k = kernel_named(isa_named(isa), kernel);
  require(takes(k, shape), "the kernel cannot compute this convolution");
  auto prepared = std::make_shared<Prepared>();
  prepared->kernel = kernel;
  rsquant::Released released;
  prepared->buffer = rsquant::Buffer(k.weight_bytes(shape));
  k.prepare(shape, source.weights, prepared->buffer.data());
  return prepared;
}

struct Tables {
  Array<const std::int32_t, 1> correction;
  Array<const float, 1> scale, shift;
  nb::object threshold;
  Array<const std::int32_t, 1> step, base, sign;
  bool integer;
  float low, high;
  int add, keep, codes;
};

// A program, and what it points to.
class BoundProgram {
 public:
  BoundProgram(const std::string& isa, std::shared_ptr<rsquant::Workspace> workspace)
      : isa_(isa_named(isa)), program_(isa_, std::move(workspace)) {}

  int value(const std::string& kind, int channels, int height, int width, int fill) {
    require(kind == "image" || kind == "codes" || kind == "float", "kind: image, codes or float");
    require(fill >= 0 && fill <= 127, "fill: 0 to 127");
    const rsquant::Kind of = kind == "image"   ? rsquant::Kind::image
                             : kind == "codes" ? rsquant::Kind::codes
                                               : rsquant::Kind::real;
    return program_.value(of, channels, height, width, fill);
  }

  void conv(const std::string& kernel, const std::vector<int>& geometry, float inverse_step,
            int input, std::shared_ptr<Prepared> prepared, const Source& source,
            const Tables& tables) {
    rsquant::ConvShape shape = shape_from(geometry);
    shape.inverse_step = inverse_step;
    check_source(source, shape);
    const rsquant::ConvKernel& k = kernel_named(isa_, kernel);
    if (prepared) require(prepared->kernel == kernel, "prepared: of another kernel");
    program_.conv(k, shape, input, prepared ? prepared->buffer.data() : nullptr, source.weights,
                  tables_from(tables, shape.out_channels));
    if (prepared) {
      rsquant::ConvShape laid_out = shape;
      laid_out.pixel_bytes = program_.value_at(input).conv_bytes();
      require(prepared->buffer.size() >= k.weight_bytes(laid_out), "prepared: too small");
      prepared_.push_back(std::move(prepared));
    }
    keep_.push_back(source.keep_planes);
    if (source.keep_basis.is_valid()) keep_.push_back(source.keep_basis);
    if (source.keep_offset.is_valid()) keep_.push_back(source.keep_offset);
  }

  void map(int input, const Tables& tables) {
    program_.map(input, tables_from(tables, channels_of(input)));
  }

  void max_pool(int input, int output, const std::vector<int>& g) {
    require(g.size() == 6, "geometry: kernel, stride and padding");
    for (const int i : {0, 1, 2, 3})
      require(g[static_cast<std::size_t>(i)] >= 1, "geometry: 1 or more");
    require(g[4] >= 0 && g[5] >= 0, "geometry: padding 0 or more");
    const int geometry[6] = {g[0], g[1], g[2], g[3], g[4], g[5]};
    program_.max_pool(input, output, geometry);
  }

  void average_pool(int input, int output, Array<const float, 1> scale, Array<const float, 1> shift,
                    float low, float high) {
    const std::size_t channels = static_cast<std::size_t>(channels_of(input));
    require(scale.size() == channels && shift.size() == channels, "scale and shift: per channel");
    program_.average_pool(input, output, scale.data(), shift.data(), low, high);
  }

  void linear(int input, int output, int limit, Array<const std::int8_t, 2> weight,
              Array<const float, 1> scale, Array<const float, 1> bias) {
    const std::size_t in = static_cast<std::size_t>(channels_of(input));
    const std::size_t out = static_cast<std::size_t>(channels_of(output));
    require(weight.shape(0) == out && weight.shape(1) == in, "weight: (outputs, inputs)");
    require(scale.size() == out && bias.size() == out, "scale and bias: per output");
    require(limit >= 1 && limit <= 32767, "limit: 1 to 32767");
    program_.linear(input, output, limit, weight.data(), scale.data(), bias.data());
    keep_.push_back(nb::cast(weight));
  }

  void finish() { program_.finish(), finished_ = true; }

  void run(Array<const std::uint8_t, 4> images, int result, Array<float, 2> logits,
           nb::object seconds) {
    check_run(images);
    require(logits.shape(0) == images.shape(0) &&
                static_cast<int>(logits.shape(1)) == channels_of(result),
            "logits: (images, classes)");
    double* times = nullptr;
    Array<double, 1> steps;
    if (!seconds.is_none()) {
      steps = nb::cast<Array<double, 1>>(seconds);
      require(steps.size() == program_.step_count(), "seconds: one per step");
      times = steps.data();
    }
    rsquant::Released released;
    program_.run(images.data(), static_cast<int>(images.shape(0)), result, logits.data(), times);
  }

  void inspect(Array<const std::uint8_t, 4> image, int id, nb::object out) {
    check_run(image);
    channels_of(id);
    const rsquant::Value& v = program_.value_at(id);
    const std::size_t count = static_cast<std::size_t>(v.height) * v.width * v.channels;
    if (v.kind == rsquant::Kind::real) {
      const auto to = nb::cast<Array<float, 3>>(out);
      require(to.size() == count, "out: (height, width, channels)");
      program_.inspect(image.data(), id, to.data());
    } else {
      const auto to = nb::cast<Array<std::uint8_t, 3>>(out);
      require(to.size() == count, "out: (height, width, channels)");
      program_.inspect(image.data(), id, to.data());
    }
  }

  std::size_t value_bytes() const { return program_.value_bytes(); }
  std::size_t scratch_bytes() const { return program_.scratch_bytes(); }
  std::size_t steps() const { return program_.step_count(); }

 private:
  int channels_of(int id) {
    require(id >= 0 && id < program_.value_count(), "no such value");
    return program_.value_at(id).channels;
  }

  void check_run(const Array<const std::uint8_t, 4>& images) {
    require(finished_, "finish() first");
    const rsquant::Value& v = program_.value_at(0);
    require(images.shape(1) == 3 && static_cast<int>(images.shape(2)) == v.height &&
                static_cast<int>(images.shape(3)) == v.width,
            "images: (N, 3, height, width)");
  }

  rsquant::EpilogueTables tables_from(const Tables& t, int channels) {
    require(channels >= 1, "no channels");
    const std::size_t n = static_cast<std::size_t>(channels);
    require(t.correction.size() == n && t.scale.size() == n && t.shift.size() == n &&
                t.base.size() == n && t.sign.size() == n,
            "tables: one entry per channel");
    rsquant::EpilogueTables e = {};
    e.correction = t.correction.data();
    e.scale = t.scale.data();
    e.shift = t.shift.data();
    e.step = t.step.data();
    e.base = t.base.data();
    e.sign = t.sign.data();
    e.thresholds = static_cast<int>(t.step.size());
    require(e.thresholds == 0 || e.thresholds == 1 || e.thresholds == 3 || e.thresholds == 7 ||
                e.thresholds == 15,
            "thresholds: 0, 1, 3, 7 or 15");
    require((e.thresholds > 0) == (t.codes >= 0), "thresholds and codes go together");
    if (t.integer) {
      const auto table = nb::cast<Array<const std::int32_t, 2>>(t.threshold);
      require(table.shape(0) == t.step.size() && table.shape(1) == n, "thresholds: (L - 1, O)");
      e.threshold = table.data();
      require(t.add < 0 && t.keep < 0, "integer thresholds: no float values");
    } else {
      const auto table = nb::cast<Array<const float, 2>>(t.threshold);
      require(table.shape(0) == t.step.size() && table.shape(1) == n, "thresholds: (L - 1, O)");
      e.threshold = table.data();
    }
    e.integer = t.integer;
    e.low = t.low;
    e.high = t.high;
    e.add = t.add;
    e.keep = t.keep;
    e.codes = t.codes;
    return e;
  }

  const rsquant::Isa& isa_;
  rsquant::Program program_;
  std::vector<std::shared_ptr<Prepared>> prepared_;
  std::vector<nb::object> keep_;
  bool finished_ = false;
};

}  // namespace

NB_MODULE(_cpu, m) {
  // What is still held at the end of a process (a class's attribute, say) is no user's fault.
  nb::set_leak_warnings(false);
  m.doc() = "Native CPU kernels of rsquant, one version per instruction set.";
  m.def("instruction_sets", &instruction_sets,
        "(name, '' or why this machine cannot use it), best first.");
  m.def("quantize_stats", &quantize_stats, nb::arg("isa"), nb::arg("x").noconvert(),
        nb::arg("levels").noconvert(), nb::arg("thresholds").noconvert(),
        nb::arg("out").noconvert(), nb::arg("counts").noconvert(), nb::arg("sums").noconvert(),
        nb::arg("threads"));
  m.def("clip_gradient", &clip_gradient, nb::arg("isa"), nb::arg("grad").noconvert(),
        nb::arg("x").noconvert(), nb::arg("bottom"), nb::arg("top"), nb::arg("out").noconvert(),
        nb::arg("threads"));

  m.def("peak", &peak, nb::arg("isa"), nb::arg("mix"));
  nb::class_<Source>(m, "Source", "Weights of a convolution, as they are stored.");
  m.def("planes", &source_from_planes, nb::arg("planes").noconvert(), nb::arg("basis").noconvert(),
        nb::arg("offset").noconvert());
  m.def("words", &source_from_words, nb::arg("levels").noconvert());
  m.def("conv_kernels", &conv_kernels, nb::arg("isa"), nb::arg("geometry"));
  m.def("all_conv_kernels", &all_conv_kernels, nb::arg("isa"));
  m.def("low_memory", &low_memory, nb::arg("isa"), nb::arg("kernel"));
  nb::class_<Prepared>(m, "Prepared", "Weights in a kernel's own layout.")
      .def_prop_ro("bytes", [](const Prepared& p) { return p.buffer.size(); });
  m.def("prepare", &prepare, nb::arg("isa"), nb::arg("kernel"), nb::arg("geometry"),
        nb::arg("pixel_bytes"), nb::arg("source"));
  nb::class_<rsquant::Workspace>(m, "Workspace", "Threads and working memory of a session.")
      .def(nb::init<int>(), nb::arg("threads"))
      .def_prop_ro("bytes",
                   [](const rsquant::Workspace& w) { return w.values.size() + w.scratch.size(); });
  nb::class_<Tables>(m, "Tables", "What happens to an accumulator: see conv.h.")
      .def(
          "__init__",
          [](Tables* t, Array<const std::int32_t, 1> correction, Array<const float, 1> scale,
             Array<const float, 1> shift, nb::object threshold, Array<const std::int32_t, 1> step,
             Array<const std::int32_t, 1> base, Array<const std::int32_t, 1> sign, bool integer,
             float low, float high, int add, int keep, int codes) {
            new (t) Tables{correction, scale, shift, threshold, step, base, sign,
                           integer,    low,   high,  add,       keep, codes};
          },
          nb::arg("correction"), nb::arg("scale"), nb::arg("shift"), nb::arg("threshold"),
          nb::arg("step"), nb::arg("base"), nb::arg("sign"), nb::arg("integer"), nb::arg("low"),
          nb::arg("high"), nb::arg("add"), nb::arg("keep"), nb::arg("codes"));
  nb::class_<BoundProgram>(m, "Program", "A packed network at one size.")
      .def(nb::init<const std::string&, std::shared_ptr<rsquant::Workspace>>(), nb::arg("isa"),
           nb::arg("workspace"))
      .def("value", &BoundProgram::value)
      .def("conv", &BoundProgram::conv, nb::arg("kernel"), nb::arg("geometry"),
           nb::arg("inverse_step"), nb::arg("input"), nb::arg("prepared").none(), nb::arg("source"),
           nb::arg("tables"))
      .def("map", &BoundProgram::map)
      .def("max_pool", &BoundProgram::max_pool)
      .def("average_pool", &BoundProgram::average_pool)
      .def("linear", &BoundProgram::linear)
      .def("finish", &BoundProgram::finish)
      .def("run", &BoundProgram::run, nb::arg("images").noconvert(), nb::arg("result"),
           nb::arg("logits").noconvert(), nb::arg("seconds").none())
      .def("inspect", &BoundProgram::inspect)
      .def_prop_ro("value_bytes", &BoundProgram::value_bytes)
      .def_prop_ro("scratch_bytes", &BoundProgram::scratch_bytes)
      .def_prop_ro("steps", &BoundProgram::steps);
}
