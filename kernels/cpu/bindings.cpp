// rsquant.kernels._cpu: numpy arrays in, plain pointers on. What a user can get wrong is checked
// in rsquant/kernels/__init__.py, with messages that say what to do; here the types hold.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <stdexcept>

#include "dispatch.h"

namespace nb = nanobind;

namespace {

using Input = nb::ndarray<nb::numpy, const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<nb::numpy, float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Sums = nb::ndarray<nb::numpy, double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

const rsquant::Kernels& kernels_named(const std::string& name) {
  for (const rsquant::Isa& isa : rsquant::instruction_sets()) {
    if (name != isa.name) continue;
    // Running it would end the process with an illegal instruction.
    if (!isa.unusable.empty()) throw std::invalid_argument(name + ": " + isa.unusable);
    return *isa.kernels;
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
  const rsquant::Kernels& kernels = kernels_named(isa);

  rsquant::Levels table = {};
  table.count = static_cast<int>(count);
  for (std::size_t k = 0; k < count; ++k) table.levels[k] = levels.data()[k];
  for (std::size_t k = 0; k + 1 < count; ++k) table.thresholds[k] = thresholds.data()[k];

  rsquant::LevelStats stats;
  {
    nb::gil_scoped_release release;
    rsquant::quantize(kernels, x.data(), x.size(), table, out.data(), threads, stats);
  }
  for (std::size_t k = 0; k < count; ++k) {
    counts.data()[k] = stats.counts[k];
    sums.data()[k] = stats.sums[k];
  }
}

void clip_gradient(const std::string& isa, Input grad, Input x, float top, Output out,
                   int threads) {
  require(grad.size() == x.size() && out.size() == x.size(), "grad, x, out: equally many values");
  require(threads >= 1, "threads: at least 1");
  const rsquant::Kernels& kernels = kernels_named(isa);
  nb::gil_scoped_release release;
  rsquant::clip_gradient(kernels, grad.data(), x.data(), x.size(), top, out.data(), threads);
}

}  // namespace

NB_MODULE(_cpu, m) {
  m.doc() = "Native CPU kernels of rsquant, one version per instruction set.";
  m.def("instruction_sets", &instruction_sets,
        "(name, '' or why this machine cannot use it), best first.");
  m.def("quantize_stats", &quantize_stats, nb::arg("isa"), nb::arg("x").noconvert(),
        nb::arg("levels").noconvert(), nb::arg("thresholds").noconvert(),
        nb::arg("out").noconvert(), nb::arg("counts").noconvert(), nb::arg("sums").noconvert(),
        nb::arg("threads"));
  m.def("clip_gradient", &clip_gradient, nb::arg("isa"), nb::arg("grad").noconvert(),
        nb::arg("x").noconvert(), nb::arg("top"), nb::arg("out").noconvert(), nb::arg("threads"));
}
