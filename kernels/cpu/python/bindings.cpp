// rsquant.kernels._cpu: numpy arrays in, plain pointers on. What a user can get wrong is checked
// in rsquant/kernels/__init__.py, with messages that say what to do; here the types hold.

#include <algorithm>
#include <stdexcept>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "bounds.h"
#include "crop.h"
#include "dispatch.h"
#include "python/binding.h"
#include "python/released.h"

namespace rsquant {

const Isa& isa_named(const std::string& name) {
  for (const Isa& isa : instruction_sets()) {
    if (name != isa.name) continue;
    // Running it would end the process with an illegal instruction.
    if (!isa.unusable.empty()) throw std::invalid_argument(name + ": " + isa.unusable);
    return isa;
  }
  throw std::invalid_argument("no instruction set is called '" + name + "'");
}

namespace {

using Input = nb::ndarray<nb::numpy, const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<nb::numpy, float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Sums = nb::ndarray<nb::numpy, double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

using Bits = nb::ndarray<nb::numpy, std::uint16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ConstBits =
    nb::ndarray<nb::numpy, const std::uint16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

nb::list named_instruction_sets() {
  nb::list found;
  for (const Isa& isa : rsquant::instruction_sets()) {
    found.append(nb::make_tuple(isa.name, isa.unusable));
  }
  return found;
}

Levels levels_of(const Input& levels, const Input& thresholds) {
  const std::size_t count = levels.size();
  require(count == 2 || count == 4 || count == 8 || count == 16, "levels: 2, 4, 8 or 16");
  require(thresholds.size() + 1 == count, "thresholds: one fewer than levels");
  Levels table = {};
  table.count = static_cast<int>(count);
  std::copy_n(levels.data(), count, table.levels);
  std::copy_n(thresholds.data(), count - 1, table.thresholds);
  return table;
}

void give(const LevelStats& stats, const Counts& counts, const Sums& sums) {
  std::copy_n(stats.counts, counts.size(), counts.data());
  std::copy_n(stats.sums, sums.size(), sums.data());
}

void quantize_stats(const std::string& isa, Input x, Input levels, Input thresholds, Output out,
                    Counts counts, Sums sums, int threads) {
  const Levels table = levels_of(levels, thresholds);
  require(out.size() == x.size(), "out: as many values as x");
  require(counts.size() == levels.size() && sums.size() == levels.size(),
          "counts and sums: one per level");
  require(threads >= 1, "threads: at least 1");
  const Kernels& kernels = isa_named(isa).table->kernels;
  LevelStats stats;
  {
    Released released;
    quantize(kernels, x.data(), x.size(), table, out.data(), threads, stats);
  }
  give(stats, counts, sums);
}

void quantize_stats_inside(const std::string& isa, Input x, Input levels, Input thresholds,
                           float bottom, float top, bool rectified, Output out, Bits inside,
                           Counts counts, Sums sums, int threads) {
  const Levels table = levels_of(levels, thresholds);
  require(out.size() == x.size(), "out: as many values as x");
  require(inside.size() == inside_words(x.size()), "inside: 16 words per 256 values");
  require(counts.size() == levels.size() && sums.size() == levels.size(),
          "counts and sums: one per level");
  require(threads >= 1, "threads: at least 1");
  const Kernels& kernels = isa_named(isa).table->kernels;
  LevelStats stats;
  {
    Released released;
    quantize_inside(kernels, x.data(), x.size(), table, {bottom, top, rectified}, out.data(),
                    inside.data(), threads, stats);
  }
  give(stats, counts, sums);
}

void quantize_rows_of(const std::string& isa, Array<const float, 2> x, Array<const float, 2> levels,
                      Array<const float, 2> thresholds, Array<float, 2> out,
                      Array<std::int64_t, 2> counts, Array<double, 2> sums, int threads) {
  const std::size_t rows = x.shape(0), count = levels.shape(1);
  require(count == 2 || count == 4 || count == 8 || count == 16, "levels: 2, 4, 8 or 16");
  require(
      levels.shape(0) == rows && thresholds.shape(0) == rows && thresholds.shape(1) + 1 == count,
      "levels and thresholds: of every row, one threshold fewer");
  require(out.shape(0) == rows && out.shape(1) == x.shape(1), "out: of the shape of x");
  require(counts.shape(0) == rows && counts.shape(1) == count && sums.shape(0) == rows &&
              sums.shape(1) == count,
          "counts and sums: one per row and level");
  require(threads >= 1, "threads: at least 1");
  const Kernels& kernels = isa_named(isa).table->kernels;
  Released released;
  quantize_rows(kernels,
                {rows, x.shape(1), static_cast<int>(count), x.data(), levels.data(),
                 thresholds.data(), out.data(), counts.data(), sums.data()},
                threads);
}

void mask_gradient_of(const std::string& isa, Input grad, ConstBits inside, Output out,
                      int threads) {
  require(out.size() == grad.size(), "grad, out: equally many values");
  require(inside.size() == inside_words(grad.size()), "inside: 16 words per 256 values");
  require(threads >= 1, "threads: at least 1");
  const Kernels& kernels = isa_named(isa).table->kernels;
  Released released;
  mask_gradient(kernels, grad.data(), inside.data(), grad.size(), out.data(), threads);
}

void clip_gradient_of(const std::string& isa, Input grad, Input x, float bottom, float top,
                      Output out, int threads) {
  require(grad.size() == x.size() && out.size() == x.size(), "grad, x, out: equally many values");
  require(threads >= 1, "threads: at least 1");
  const Kernels& kernels = isa_named(isa).table->kernels;
  Released released;
  clip_gradient(kernels, grad.data(), x.data(), x.size(), bottom, top, out.data(), threads);
}

double peak(const std::string& isa, const std::string& mix, int threads) {
  const Peak& loops = isa_named(isa).table->peak;
  const auto loop = mix == "bytes"   ? loops.bytes
                    : mix == "words" ? loops.words
                    : mix == "bits"  ? loops.bits
                    : mix == "pair"  ? loops.pair
                    : mix == "plane" ? loops.plane
                    : mix == "sums"  ? loops.sums
                                     : nullptr;
  require(loop != nullptr, "mix: bytes, words, bits, pair, plane or sums");
  require(threads >= 1, "threads: 1 or more");
  Released released;
  return products_per_ns(loop, threads);
}

double copy_speed(std::int64_t block, int threads) {
  require(block >= 128 && threads >= 1, "block: 128 bytes or more; threads: 1 or more");
  Released released;
  return bytes_copied_per_ns(block, threads);
}

// Pixels of a row side by side; rows in any order.
using Pixels = nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<3>, nb::device::cpu>;

void crop_photograph(const std::string& isa, Pixels image, Pair resized, Pair start,
                     Array<std::uint8_t, 3> out) {
  require(image.shape(2) == 3 && image.stride(2) == 1 && image.stride(1) == 3,
          "image: (height, width, 3), rows of pixels R G B");
  require(image.size() > 0 && out.size() > 0, "image, out: 1 pixel or more");
  require(out.shape(0) == 3, "out: (3, height, width)");
  constexpr std::size_t kMost = 1 << 28;  // sides that integers and doubles hold with room
  Axis axes[2];
  for (std::size_t i = 0; i < 2; ++i) {
    require(image.shape(i) < kMost && resized[i] < static_cast<int>(kMost), "image: too long");
    const int count = static_cast<int>(out.shape(i + 1));
    require(start[i] >= 0 && start[i] <= resized[i] - count,
            "start: out lies in the resized image");
    axes[i] = {static_cast<int>(image.shape(i)), resized[i], start[i], count};
  }
  const Resample& resample = isa_named(isa).table->resample;
  Released released;
  crop(resample, {image.data(), image.stride(0)}, axes[0], axes[1], out.data());
}

void check_run(const BoundProgram& bound, const Array<const std::uint8_t, 4>& images) {
  require(bound.finished, "finish() first");
  const Value& v = bound.program.value_at(0);
  require(images.shape(1) == 3 && static_cast<int>(images.shape(2)) == v.height &&
              static_cast<int>(images.shape(3)) == v.width,
          "images: (N, 3, height, width)");
}

int add_value(BoundProgram& bound, const std::string& kind, int channels, int height, int width,
              int fill) {
  const bool bytes = kind == "codes" || kind == "bytes";
  require(bytes || kind == "image" || kind == "float", "kind: image, codes, bytes or float");
  require(fill >= 0 && fill <= (kind == "codes" ? 127 : 255), "fill: 0 to 127, of bytes to 255");
  const Kind of = kind == "image" ? Kind::image : bytes ? Kind::codes : Kind::real;
  return bound.program.value(of, channels, height, width, fill);
}

void finish(BoundProgram& bound, const std::vector<std::size_t>& offsets, std::size_t total) {
  bound.program.finish(offsets, total);
  bound.finished = true;
}

void run(BoundProgram& bound, Array<const std::uint8_t, 4> images, int result,
         Array<float, 2> logits, nb::object seconds) {
  check_run(bound, images);
  const Value& v = bound.program.value_at(result);
  require(logits.shape(0) == images.shape(0) &&
              logits.shape(1) == static_cast<std::size_t>(v.channels) * v.height * v.width,
          "logits: (images, classes height width)");
  double* times = nullptr;
  Array<double, 1> steps;
  if (!seconds.is_none()) {
    steps = nb::cast<Array<double, 1>>(seconds);
    require(steps.size() == bound.program.step_count(), "seconds: one per step");
    times = steps.data();
  }
  Released released;
  bound.program.run(images.data(), static_cast<int>(images.shape(0)), result, logits.data(), times);
}

void inspect(BoundProgram& bound, Array<const std::uint8_t, 4> image, int id, nb::object out) {
  check_run(bound, image);
  const Value& v = bound.program.value_at(id);
  const std::size_t count = static_cast<std::size_t>(v.height) * v.width * v.channels;
  if (v.kind == Kind::real) {
    const auto to = nb::cast<Array<float, 3>>(out);
    require(to.size() == count, "out: (height, width, channels)");
    bound.program.inspect(image.data(), id, to.data());
  } else {
    const auto to = nb::cast<Array<std::uint8_t, 3>>(out);
    require(to.size() == count, "out: (height, width, channels)");
    bound.program.inspect(image.data(), id, to.data());
  }
}

}  // namespace

NB_MODULE(_cpu, m) {
  // What is still held at the end of a process (a class's attribute, say) is no user's fault.
  nb::set_leak_warnings(false);
  m.doc() = "Native CPU kernels of rsquant, one version per instruction set.";
  m.def("instruction_sets", &named_instruction_sets,
        "(name, '' or why this machine cannot use it), best first.");
  m.def("quantize_stats", &quantize_stats, nb::arg("isa"), nb::arg("x").noconvert(),
        nb::arg("levels").noconvert(), nb::arg("thresholds").noconvert(),
        nb::arg("out").noconvert(), nb::arg("counts").noconvert(), nb::arg("sums").noconvert(),
        nb::arg("threads"));
  m.def("quantize_stats_inside", &quantize_stats_inside, nb::arg("isa"), nb::arg("x").noconvert(),
        nb::arg("levels").noconvert(), nb::arg("thresholds").noconvert(), nb::arg("bottom"),
        nb::arg("top"), nb::arg("rectified"), nb::arg("out").noconvert(),
        nb::arg("inside").noconvert(), nb::arg("counts").noconvert(), nb::arg("sums").noconvert(),
        nb::arg("threads"));
  m.def("quantize_rows", &quantize_rows_of, nb::arg("isa"), nb::arg("x").noconvert(),
        nb::arg("levels").noconvert(), nb::arg("thresholds").noconvert(),
        nb::arg("out").noconvert(), nb::arg("counts").noconvert(), nb::arg("sums").noconvert(),
        nb::arg("threads"));
  m.def("mask_gradient", &mask_gradient_of, nb::arg("isa"), nb::arg("grad").noconvert(),
        nb::arg("inside").noconvert(), nb::arg("out").noconvert(), nb::arg("threads"));
  m.def("clip_gradient", &clip_gradient_of, nb::arg("isa"), nb::arg("grad").noconvert(),
        nb::arg("x").noconvert(), nb::arg("bottom"), nb::arg("top"), nb::arg("out").noconvert(),
        nb::arg("threads"));

  m.def("crop", &crop_photograph, nb::arg("isa"), nb::arg("image").noconvert(), nb::arg("resized"),
        nb::arg("start"), nb::arg("out").noconvert(),
        "Of a photograph resized to (height, width), what begins at (row, column).");
  m.def("peak", &peak, nb::arg("isa"), nb::arg("mix"), nb::arg("threads") = 1,
        "1e9 products a second.");
  m.def(
      "sums_limit", [](const std::string& isa) { return isa_named(isa).table->peak.sums_limit; },
      nb::arg("isa"), "The largest input of which bytes of `lookup` hold several steps.");
  m.def("copy_speed", &copy_speed, nb::arg("block"), nb::arg("threads") = 1,
        "1e9 bytes a second, read and written, within a block of so many bytes.");
  m.def(
      "trim",
      [] {
#if defined(__GLIBC__)
        Released released;
        malloc_trim(0);
#endif
      },
      "Gives memory that was freed back to the system, where the C library keeps it.");
  nb::class_<Workspace>(m, "Workspace", "Threads and working memory of a session.")
      .def(nb::init<int, bool>(), nb::arg("threads"), nb::arg("low_memory") = false)
      .def_prop_ro("bytes", [](const Workspace& w) { return w.values.size() + w.scratch.size(); });
  bind_tables(m);
  bind_byte_tables(m);
  ProgramClass program(m, "Program", "A packed network at one size.");
  program
      .def(nb::init<const std::string&, std::shared_ptr<Workspace>>(), nb::arg("isa"),
           nb::arg("workspace"))
      .def("value", &add_value, nb::kw_only(), nb::arg("kind"), nb::arg("channels"),
           nb::arg("height"), nb::arg("width"), nb::arg("fill"))
      .def("value_sizes", [](BoundProgram& b) { return b.program.value_sizes(); })
      .def("finish", &finish, nb::kw_only(), nb::arg("offsets"), nb::arg("total"))
      .def("run", &run, nb::arg("images").noconvert(), nb::arg("result"),
           nb::arg("logits").noconvert(), nb::arg("seconds").none())
      .def("inspect", &inspect, nb::arg("image").noconvert(), nb::arg("value"), nb::arg("out"))
      .def_prop_ro("value_bytes", [](const BoundProgram& b) { return b.program.value_bytes(); })
      .def_prop_ro("scratch_bytes", [](const BoundProgram& b) { return b.program.scratch_bytes(); })
      .def_prop_ro("steps", [](const BoundProgram& b) { return b.program.step_count(); });
  bind_conv(m, program);
  bind_steps(program);
}

}  // namespace rsquant
