// A convolution: the geometry that decides which kernels can compute it, its weights, its step.

#include "conv.h"

#include <algorithm>

#include "ops/binding.h"
#include "released.h"

namespace rsquant {
namespace {

// Of a dilated kernel, in pixels, and how far the last window reaches beyond the input below and to
// the right: padding there is what the size of the output asks for, and need not be that above and
// to the left. Negative where pixels are left over.
struct Reach {
  int height, width, below, right;
};

Reach reach_of(const ConvShape& s) {
  const int height = s.dilation_h * (s.kernel_h - 1) + 1;
  const int width = s.dilation_w * (s.kernel_w - 1) + 1;
  return {height, width, (s.out_h - 1) * s.stride_h - s.pad_h + height - s.in_h,
          (s.out_w - 1) * s.stride_w - s.pad_w + width - s.in_w};
}

std::int64_t largest_sum(const ConvShape& s) {
  return std::int64_t{s.kernel_h} * s.kernel_w * (s.in_channels / s.groups) * s.input_limit *
         s.weight_limit;
}

// The border that a convolution needs, on every side.
int padding_of(const ConvShape& s) {
  const Reach reach = reach_of(s);
  return std::max({s.pad_h, s.pad_w, reach.below, reach.right});
}

struct ConvStep : Step {
  ConvStep(const ConvKernel& kernel, const ConvRun& run, int input, Tables tables)
      : kernel(kernel), base(run), input(input), tables(std::move(tables)) {}
  const ConvKernel& kernel;
  ConvRun base;
  int input;
  Tables tables;

  // A value's border serves all that read it; of floats each convolution makes its own.
  ConvShape shape(const Program& p) const {
    ConvShape s = base.shape;
    s.border = s.real ? padding_of(s) : p.value_at(input).border;
    return s;
  }

  std::size_t thread_scratch(const Program& p) const override {
    return kernel.scratch_bytes(shape(p), base.weights != nullptr);
  }

  std::size_t shared_scratch(const Program& p) const override {
    return kernel.input_bytes(shape(p));
  }

  void run(Program& p) override {
    ConvRun now = base;
    now.shape = shape(p);
    now.input = p.start(input);
    now.epilogue = tables.bind(p);
    void* shared = p.shared_scratch();
    now.transformed = shared;
    const int first = kernel.input_tasks(now.shape);
    if (first > 0) {
      p.parallel(first, [&](int task, int) {
        kernel.transform_input(now.shape, now.input, shared, task);
      });
    }
    p.parallel(kernel.tasks(now.shape, now.weights != nullptr),
               [&](int task, int thread) { kernel.run(now, task, p.scratch(thread)); });
  }
};

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
  for (const int n : {groups, in_channels, out_channels, kernel[0], kernel[1], stride[0], stride[1],
                      dilation[0], dilation[1], input_limit, weight_limit}) {
    require(n >= 1, "form: 1 or more");
  }
  require(s.pad_h >= 0 && s.pad_w >= 0, "form: padding 0 or more");
  require(in_channels % groups == 0 && out_channels % groups == 0,
          "form: groups must divide the channels");
  require(input_limit <= (real ? 32767 : 255) && weight_limit <= 32767, "form: limits of levels");
  require(!real || weight_limit <= 127, "form: floats meet weights of a byte");
  require(weight_bits >= 0 && weight_bits <= 4 && input_basis.size() <= 4, "form: bits");
  s.input_bits = static_cast<int>(input_basis.size());
  for (std::size_t j = 0; j < input_basis.size(); ++j) {
    require(input_basis[j] >= -127 && input_basis[j] <= 127, "form: basis");
    s.input_basis[j] = input_basis[j];
  }
  return s;
}

const ConvKernel& kernel_named(const Isa& isa, const std::string& name) {
  for (const ConvKernel* kernel : isa.table->conv) {
    if (kernel != nullptr && name == kernel->name) return *kernel;
  }
  throw std::invalid_argument("no convolution kernel is called '" + name + "'");
}

// The kernels that can compute a convolution exactly, the one to use untimed first.
std::vector<std::string> conv_kernels(const std::string& isa, const ConvShape& form) {
  std::vector<std::string> names;
  for (const ConvKernel* kernel : isa_named(isa).table->conv) {
    if (kernel != nullptr && takes(*kernel, form)) names.emplace_back(kernel->name);
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

// Weights in a kernel's own layout; the same for all sizes. Those that were made together share a
// block, which large pages of memory fit into.
struct Prepared {
  std::shared_ptr<Buffer> block;
  std::uint8_t* data;
  std::size_t bytes;
  std::string kernel;
};

// One convolution's weights and the kernel that they are for.
struct Request {
  std::string kernel;
  ConvShape form;
  int pixel_bytes;
  Source source;
};

std::vector<std::shared_ptr<Prepared>> prepare(const std::string& isa,
                                               const std::vector<Request>& requests, int threads) {
  std::vector<const ConvKernel*> kernels;
  std::vector<ConvShape> shapes;
  std::vector<std::shared_ptr<Prepared>> made;
  std::vector<std::size_t> places;
  std::size_t all = 0;
  for (const Request& request : requests) {
    ConvShape shape = request.form;
    shape.pixel_bytes = request.pixel_bytes;
    check_source(request.source, shape);
    const ConvKernel& kernel = kernel_named(isa_named(isa), request.kernel);
    require(takes(kernel, shape), "the kernel cannot compute this convolution");
    const std::size_t bytes = kernel.weight_bytes(shape);
    kernels.push_back(&kernel);
    shapes.push_back(shape);
    made.push_back(std::make_shared<Prepared>(Prepared{nullptr, nullptr, bytes, request.kernel}));
    places.push_back(all);
    all += (bytes + 63) / 64 * 64;
  }
  Released released;
  const auto block = std::make_shared<Buffer>(all);
  Pool pool(std::min(threads, static_cast<int>(requests.size())));
  pool.run(static_cast<int>(requests.size()), [&](int task, int) {
    const std::size_t i = static_cast<std::size_t>(task);
    made[i]->block = block;
    made[i]->data = block->data() + places[i];
    kernels[i]->prepare(shapes[i], requests[i].source.weights, made[i]->data);
  });
  return made;
}

// `prepared` may be null for a kernel with low_memory.
void conv(BoundProgram& bound, const std::string& name, const ConvShape& form, float inverse_step,
          int input, std::shared_ptr<Prepared> prepared, const Source& source,
          const GivenTables& given) {
  Program& program = bound.program;
  const ConvKernel& kernel = kernel_named(program.isa(), name);
  const Value& in = program.value_at(input);
  Tables tables = given.tables(form.out_channels, largest_sum(form));
  const Value& out = tables.output(program);
  ConvShape shape = form;
  shape.inverse_step = inverse_step;
  check_source(source, shape);
  require((in.kind == Kind::real) == shape.real, "kind of the input");
  require(shape.in_channels == in.channels, "channels of the input");
  shape.in_h = in.height, shape.in_w = in.width;
  shape.out_h = out.height, shape.out_w = out.width;
  shape.pixel_bytes = in.conv_bytes();
  const Reach reach = reach_of(shape);
  require(reach.below < reach.height && reach.right < reach.width,
          "the input is smaller than the kernel");
  require(takes(kernel, shape), "the kernel cannot compute this convolution");
  if (prepared) {
    require(prepared->kernel == name, "prepared: of another kernel");
    require(prepared->bytes >= kernel.weight_bytes(shape), "prepared: too small");
  }
  require(prepared != nullptr || kernel.low_memory, "the kernel needs prepared weights");
  if (!shape.real) program.needs_border(input, padding_of(shape));
  program.reads(input);
  // The windows of a convolution of what it adds read elements of other threads.
  tables.declare(program, !tables.adds(input));
  ConvRun run = {};
  run.shape = shape;
  run.weights = prepared ? prepared->data : nullptr;
  run.source = source.weights;
  program.add(std::make_unique<ConvStep>(kernel, run, input, std::move(tables)));
  if (prepared) bound.kept.push_back(std::move(prepared));
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
  m.def("conv_kernels", &conv_kernels, nb::arg("isa"), nb::arg("form"));
  m.def("all_conv_kernels", &all_conv_kernels, nb::arg("isa"));
  m.def("low_memory", &low_memory, nb::arg("isa"), nb::arg("kernel"));
  nb::class_<Prepared>(m, "Prepared", "Weights in a kernel's own layout.")
      .def_prop_ro("bytes", [](const Prepared& p) { return p.bytes; });
  nb::class_<Request>(m, "Request", "A convolution whose weights are laid out for a kernel.")
      .def(
          "__init__",
          [](Request* r, const std::string& kernel, const ConvShape& form, int pixel_bytes,
             const Source& source) { new (r) Request{kernel, form, pixel_bytes, source}; },
          nb::kw_only(), nb::arg("kernel"), nb::arg("form"), nb::arg("pixel_bytes"),
          nb::arg("source"));
  m.def("prepare", &prepare, nb::kw_only(), nb::arg("isa"), nb::arg("requests"),
        nb::arg("threads"));
  program.def("conv", &conv, nb::kw_only(), nb::arg("kernel"), nb::arg("form"),
              nb::arg("inverse_step"), nb::arg("input"), nb::arg("prepared").none(),
              nb::arg("source"), nb::arg("tables"));
}

}  // namespace rsquant
