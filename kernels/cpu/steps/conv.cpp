// A convolution, with the kernel that was chosen for it.

#include "conv.h"

#include <algorithm>

#include "steps/steps.h"

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

// The border that a convolution needs, on every side.
int padding_of(const ConvShape& s) {
  const Reach reach = reach_of(s);
  return std::max({s.pad_h, s.pad_w, reach.below, reach.right});
}

struct ConvStep : Step {
  ConvStep(const ConvKernel& kernel, const ConvRun& run, std::shared_ptr<Prepared> prepared,
           int input, Tables tables)
      : kernel(kernel),
        base(run),
        prepared(std::move(prepared)),
        input(input),
        tables(std::move(tables)) {}
  const ConvKernel& kernel;
  ConvRun base;
  std::shared_ptr<Prepared> prepared;
  int input;
  Tables tables;

  // A value's border serves all that read it; of floats each convolution makes its own.
  ConvShape shape(const Program& p) const {
    ConvShape s = base.shape;
    s.border = s.real ? padding_of(s) : p.value_at(input).border;
    s.fill = p.value_at(input).fill;
    s.threads = p.threads();
    return s;
  }

  std::size_t thread_scratch(const Program& p) const override {
    return kernel.scratch_bytes(shape(p), base.weights != nullptr);
  }

  std::size_t shared_scratch(const Program& p) const override {
    return kernel.input_bytes == nullptr ? 0 : kernel.input_bytes(shape(p));
  }

  void run(Program& p) override {
    ConvRun now = base;
    now.shape = shape(p);
    now.input = p.start(input);
    now.epilogue = tables.bind(p);
    void* shared = p.shared_scratch();
    now.transformed = shared;
    if (kernel.transform_input != nullptr) {
      p.parallel(kernel.input_tasks(now.shape), [&](int task, int) {
        kernel.transform_input(now.shape, now.input, shared, task);
      });
    }
    const int tasks = kernel.tasks(now.shape, now.weights != nullptr);
    const auto run = [&](int task, int thread) { kernel.run(now, task, p.scratch(thread)); };
    if (kernel.begin == nullptr) {
      p.parallel(tasks, run);
    } else {
      p.parallel(tasks, [&](int thread) { kernel.begin(now, p.scratch(thread)); }, run);
    }
  }
};

}  // namespace

void add_conv(Program& program, const ConvKernel& kernel, const ConvShape& form, float inverse_step,
              int input, std::shared_ptr<Prepared> prepared, const ConvWeights& source,
              Tables tables) {
  check_form(form);
  const Value& in = program.value_at(input);
  const Value& out = tables.output(program);
  ConvShape shape = form;
  shape.inverse_step = inverse_step;
  require(source.bits == shape.weight_bits, "weights: bits of the form");
  require(source.words != nullptr || shape.weight_limit <= 127, "form: levels of bit planes");
  require((in.kind == Kind::real) == shape.real, "kind of the input");
  require(shape.in_channels == in.channels, "channels of the input");
  require(shape.out_channels == out.channels, "channels of the output");
  shape.in_h = in.height, shape.in_w = in.width;
  shape.out_h = out.height, shape.out_w = out.width;
  shape.pixel_bytes = in.conv_bytes();
  const Reach reach = reach_of(shape);
  require(reach.below < reach.height && reach.right < reach.width,
          "the input is smaller than the kernel");
  require(takes(kernel, shape), "the kernel cannot compute this convolution");
  if (prepared) {
    require(prepared->kernel == &kernel, "prepared: of another kernel");
    require(prepared->bytes >= kernel.weight_bytes(shape), "prepared: too small");
  }
  require(prepared != nullptr || kernel.low_memory, "the kernel needs prepared weights");
  if (!shape.real) program.needs_border(input, padding_of(shape));
  program.reads(input);
  // The windows of a convolution of what it adds read elements of other threads.
  tables.declare(program, !tables.adds(input));
  tables.keep_read(*program.isa().table);
  ConvRun run = {};
  run.shape = shape;
  run.weights = prepared ? prepared->data : nullptr;
  run.source = source;
  program.add(
      std::make_unique<ConvStep>(kernel, run, std::move(prepared), input, std::move(tables)));
}

}  // namespace rsquant
