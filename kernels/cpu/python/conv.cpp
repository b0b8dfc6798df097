// Convolutions from Python: the geometry that decides which kernels can compute one, its weights,
// its step.

#include <algorithm>

#include "python/binding.h"
#include "python/released.h"

namespace rsquant {
namespace {

// Weights as a file holds them. The arrays must outlive what is made of them.
struct Source {
  ConvWeights weights = {};
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

void check_source(const Source& source, const ConvShape& s) {
  const std::int64_t n =
      static_cast<std::int64_t>(s.kernel_h) * s.kernel_w * (s.in_channels / s.groups);
  const ConvWeights& w = source.weights;
  require(w.bits == s.weight_bits, "weights: bits of the form");
  require(w.words != nullptr || s.weight_limit <= 127, "form: levels of bit planes");
  if (w.planes != nullptr) {
    const auto planes = nb::cast<Array<const std::uint8_t, 3>>(source.keep_planes);
    require(static_cast<int>(planes.shape(1)) == s.out_channels, "planes: rows of all channels");
    require(w.plane_bytes * 8 >= n && w.plane_bytes * 8 < n + 64, "planes: bytes of a row");
  } else {
    const auto levels = nb::cast<Array<const std::int16_t, 4>>(source.keep_planes);
    require(static_cast<std::int64_t>(levels.size()) == n * s.out_channels, "levels: size");
  }
}

// The shape of a convolution, but for the sizes of its input and output.
ConvShape form(int groups, int in_channels, int out_channels, Pair kernel, Pair stride,
               Pair padding, Pair dilation, int input_limit, int weight_limit, bool real,
               int weight_bits, const std::vector<int>& input_basis) {
  ConvShape s = {};
  s.groups = groups, s.in_channels = in_channels, s.out_channels = out_channels;
  s.kernel_h = kernel[0], s.kernel_w = kernel[1], s.stride_h = stride[0], s.stride_w = stride[1];
  s.pad_h = padding[0], s.pad_w = padding[1];
  s.dilation_h = dilation[0], s.dilation_w = dilation[1];
  s.input_limit = input_limit, s.weight_limit = weight_limit, s.real = real;
  s.weight_bits = weight_bits;
  require(input_basis.size() <= 4, "form: bits");
  s.input_bits = static_cast<int>(input_basis.size());
  std::copy(input_basis.begin(), input_basis.end(), s.input_basis);
  check_form(s);
  return s;
}

std::int64_t largest_sum(const ConvShape& s) {
  return std::int64_t{s.kernel_h} * s.kernel_w * (s.in_channels / s.groups) * s.input_limit *
         s.weight_limit;
}

std::vector<std::string> kernel_names(const std::string& isa, const ConvShape& form) {
  std::vector<std::string> names;
  for (const ConvKernel* kernel : conv_kernels(isa_named(isa), form)) {
    names.emplace_back(kernel->name);
  }
  return names;
}

std::vector<std::string> all_conv_kernels(const std::string& isa) {
  std::vector<std::string> names;
  for (const ConvKernel* kernel : isa_named(isa).table->conv) {
    if (kernel != nullptr) names.emplace_back(kernel->name);
  }
  return names;
}

bool low_memory(const std::string& isa, const std::string& kernel) {
  return kernel_named(isa_named(isa), kernel).low_memory;
}

bool has_small_layout_of(const std::string& isa, const std::string& kernel, const ConvShape& form,
                         int pixel_bytes) {
  ConvShape shape = form;
  shape.pixel_bytes = pixel_bytes;
  return has_small_layout(kernel_named(isa_named(isa), kernel), shape);
}

// One convolution's weights and the kernel that they are for.
struct GivenRequest {
  std::string kernel;
  ConvShape form;
  int pixel_bytes;
  Source source;
};

// With what keeps the weights that they are made of.
struct GivenLayouts {
  std::vector<GivenRequest> given;
  Layouts layouts;

  GivenLayouts(const std::string& isa, std::vector<GivenRequest> of) : given(std::move(of)) {
    std::vector<Request> requests;
    for (const GivenRequest& one : given) {
      ConvShape shape = one.form;
      shape.pixel_bytes = one.pixel_bytes;
      check_source(one.source, shape);
      requests.push_back({&kernel_named(isa_named(isa), one.kernel), shape, one.source.weights});
    }
    layouts = reserve(std::move(requests));
  }

  void prepare(int threads) const {
    Released released;
    rsquant::prepare(layouts, threads);
  }
};

// `prepared` may be null for a kernel with low_memory.
void conv(BoundProgram& bound, const std::string& name, const ConvShape& form, float inverse_step,
          int input, std::shared_ptr<Prepared> prepared, const Source& source,
          const GivenTables& given) {
  check_source(source, form);
  add_conv(bound.program, kernel_named(bound.program.isa(), name), form, inverse_step, input,
           std::move(prepared), source.weights, given.tables(form.out_channels, largest_sum(form)));
  bound.objects.push_back(source.keep_planes);
  if (source.keep_basis.is_valid()) bound.objects.push_back(source.keep_basis);
  if (source.keep_offset.is_valid()) bound.objects.push_back(source.keep_offset);
}

}  // namespace

void bind_conv(nb::module_& m, ProgramClass& program) {
  nb::class_<ConvShape>(m, "ConvForm", "What decides which kernels can compute a convolution.")
      .def(
          "__init__",
          [](ConvShape* s, int groups, int in_channels, int out_channels, Pair kernel, Pair stride,
             Pair padding, Pair dilation, int input_limit, int weight_limit, bool real,
             int weight_bits, const std::vector<int>& input_basis) {
            new (s)
                ConvShape(form(groups, in_channels, out_channels, kernel, stride, padding, dilation,
                               input_limit, weight_limit, real, weight_bits, input_basis));
          },
          nb::kw_only(), nb::arg("groups"), nb::arg("in_channels"), nb::arg("out_channels"),
          nb::arg("kernel"), nb::arg("stride"), nb::arg("padding"), nb::arg("dilation"),
          nb::arg("input_limit"), nb::arg("weight_limit"), nb::arg("real"), nb::arg("weight_bits"),
          nb::arg("input_basis"));
  nb::class_<Source>(m, "Source", "Weights of a convolution, as they are stored.");
  m.def("planes", &source_from_planes, nb::arg("planes").noconvert(), nb::arg("basis").noconvert(),
        nb::arg("offset").noconvert());
  m.def("words", &source_from_words, nb::arg("levels").noconvert());
  m.def("conv_kernels", &kernel_names, nb::arg("isa"), nb::arg("form"));
  m.def("all_conv_kernels", &all_conv_kernels, nb::arg("isa"));
  m.def("low_memory", &low_memory, nb::arg("isa"), nb::arg("kernel"));
  m.def("has_small_layout", &has_small_layout_of, nb::arg("isa"), nb::arg("kernel"),
        nb::arg("form"), nb::arg("pixel_bytes"));
  nb::class_<Prepared>(m, "Prepared", "Weights in a kernel's own layout.")
      .def_prop_ro("bytes", [](const Prepared& p) { return p.bytes; });
  nb::class_<GivenRequest>(m, "Request", "A convolution whose weights are laid out for a kernel.")
      .def(
          "__init__",
          [](GivenRequest* r, const std::string& kernel, const ConvShape& form, int pixel_bytes,
             const Source& source) { new (r) GivenRequest{kernel, form, pixel_bytes, source}; },
          nb::kw_only(), nb::arg("kernel"), nb::arg("form"), nb::arg("pixel_bytes"),
          nb::arg("source"));
  nb::class_<GivenLayouts>(m, "Layouts", "Layouts that have their places; made by `prepare`.")
      .def(nb::init<const std::string&, std::vector<GivenRequest>>(), nb::kw_only(), nb::arg("isa"),
           nb::arg("requests"))
      .def_prop_ro("prepared", [](const GivenLayouts& made) { return made.layouts.prepared; })
      .def("prepare", &GivenLayouts::prepare, nb::kw_only(), nb::arg("threads"));
  program.def("conv", &conv, nb::kw_only(), nb::arg("kernel"), nb::arg("form"),
              nb::arg("inverse_step"), nb::arg("input"), nb::arg("prepared").none(),
              nb::arg("source"), nb::arg("tables"));
}

}  // namespace rsquant
