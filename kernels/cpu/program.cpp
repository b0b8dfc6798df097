#include "program.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>

namespace rsquant {
namespace {

constexpr std::size_t kLine = 64;
// Readable bytes behind every value, for kernels that load whole vectors.
constexpr std::size_t kSlack = 64;

std::size_t lines(std::size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

int round_up(int n, int to) { return (n + to - 1) / to * to; }

}  // namespace

Buffer::Buffer(std::size_t bytes) : size_(lines(bytes)) {
  if (size_ == 0) return;
  data_ = static_cast<std::uint8_t*>(std::aligned_alloc(kLine, size_));
  if (data_ == nullptr) throw std::bad_alloc();
}

Buffer::~Buffer() { std::free(data_); }

Buffer::Buffer(Buffer&& other) noexcept : data_(other.data_), size_(other.size_) {
  other.data_ = nullptr;
  other.size_ = 0;
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

int Value::pixel_bytes() const { return kind == Kind::real ? channels * 4 : round_up(channels, 4); }

int Value::conv_bytes() const { return round_up(channels, 4); }

std::int64_t Value::row() const {
  return static_cast<std::int64_t>(width + 2 * border) * pixel_bytes();
}

std::size_t Value::bytes() const {
  return lines(static_cast<std::size_t>(row()) * (height + 2 * border) + kSlack);
}

// Tables of an epilogue, filled up so that a kernel may load whole vectors of any block.
struct Program::Tables {
  explicit Tables(const EpilogueTables& given, int channels) : given(given) {
    const std::size_t n = static_cast<std::size_t>(channels);
    const std::size_t padded = static_cast<std::size_t>(padded_channels(channels));
    memory = Buffer((5 + static_cast<std::size_t>(given.thresholds)) * padded * 4);
    std::memset(memory.data(), 0, memory.size());
    std::uint8_t* next = memory.data();
    const auto keep = [&](const void* from) {
      std::uint8_t* to = next;
      if (from != nullptr) std::memcpy(to, from, n * 4);
      next += padded * 4;
      return to;
    };
    epilogue.correction = reinterpret_cast<const std::int32_t*>(keep(given.correction));
    epilogue.scale = reinterpret_cast<const float*>(keep(given.scale));
    epilogue.shift = reinterpret_cast<const float*>(keep(given.shift));
    epilogue.base = reinterpret_cast<const std::int32_t*>(keep(given.base));
    epilogue.sign = reinterpret_cast<const std::int32_t*>(keep(given.sign));
    for (int k = 0; k < given.thresholds; ++k) {
      epilogue.threshold[k] = keep(static_cast<const std::uint8_t*>(given.threshold) + k * n * 4);
      epilogue.step[k] = given.step[k];
    }
    epilogue.thresholds = given.thresholds;
    epilogue.integer = given.integer;
    epilogue.low = given.low;
    epilogue.high = given.high;
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    epilogue.plain =
        given.low == -kInfinity && given.high == kInfinity &&
        std::all_of(given.correction, given.correction + n, [](std::int32_t c) { return c == 0; });
  }
  EpilogueTables given;  // the pointers are not used again
  Buffer memory;
  Epilogue epilogue = {};
};

struct Program::Step {
  virtual ~Step() = default;
  virtual void run(Program& program) = 0;
};

struct Program::ImageStep : Step {
  explicit ImageStep(int to) : to(to) {}
  int to;
  void run(Program& p) override {
    const Value& v = p.at(to);
    p.fill_border(to);
    std::uint8_t* inside = p.inside(to);
    const std::size_t plane = static_cast<std::size_t>(v.height) * v.width;
    p.workspace_->pool.run((v.height + 15) / 16, [&](int task, int) {
      for (int y = task * 16; y < std::min(v.height, task * 16 + 16); ++y) {
        std::uint8_t* out = inside + y * v.row();
        const std::uint8_t* in = p.images_ + static_cast<std::size_t>(y) * v.width;
        for (int x = 0; x < v.width; ++x) {
          out[4 * x] = in[x];
          out[4 * x + 1] = in[plane + x];
          out[4 * x + 2] = in[2 * plane + x];
          out[4 * x + 3] = 255;
        }
      }
    });
  }
};

struct Program::ConvStep : Step {
  ConvStep(const ConvKernel& kernel, const ConvRun& run, int input, const EpilogueTables& tables)
      : kernel(kernel), base(run), input(input), tables(tables, run.shape.out_channels) {}
  const ConvKernel& kernel;
  ConvRun base;
  int input;
  Tables tables;
  std::size_t transformed = 0;  // offset in the scratch of the whole program

  void run(Program& p) override {
    ConvRun now = base;
    now.shape.border = p.border_of(*this);
    now.input = p.workspace_->values.data() + p.at(input).offset;
    now.epilogue = p.bind(tables);
    void* shared = p.scratch(p.workspace_->pool.threads());
    now.transformed = shared;
    const int first = kernel.input_tasks(now.shape);
    if (first > 0) {
      p.workspace_->pool.run(first, [&](int task, int) {
        kernel.transform_input(now.shape, now.input, shared, task);
      });
    }
    p.workspace_->pool.run(kernel.tasks(now.shape, now.weights != nullptr),
                           [&](int task, int thread) { kernel.run(now, task, p.scratch(thread)); });
  }
};

struct Program::MapStep : Step {
  MapStep(int input, const ConvShape& shape, const EpilogueTables& tables)
      : input(input), shape(shape), tables(tables, shape.out_channels) {}
  int input;
  ConvShape shape;
  Tables tables;
  void run(Program& p) override {
    const Epilogue epilogue = p.bind(tables);
    const Value& v = p.at(input);
    const int element = v.kind == Kind::real ? 4 : 1;
    p.workspace_->pool.run(shape.out_h, [&](int row, int) {
      p.isa_.table->pointwise.map(epilogue, shape, p.inside(input) + row * v.row(), element,
                                  v.pixel_bytes(), row);
    });
  }
};

struct Program::MaxPoolStep : Step {
  MaxPoolStep(int input, int output, const MaxPool& base)
      : input(input), output(output), base(base) {}
  int input, output;
  MaxPool base;
  void run(Program& p) override {
    MaxPool now = base;
    p.fill_border(output);
    now.input = p.inside(input);
    now.in_row = p.at(input).row();
    now.output = p.inside(output);
    now.out_row = p.at(output).row();
    p.workspace_->pool.run(now.out_h,
                           [&](int row, int) { p.isa_.table->pointwise.max_pool(now, row); });
  }
};

struct Program::AveragePoolStep : Step {
  int input, output;
  std::vector<float> scale, shift;
  float low, high;
  void run(Program& p) override {
    const Value& v = p.at(input);
    const AveragePool now = {v.channels,
                             v.height * v.width,
                             reinterpret_cast<const float*>(p.inside(input)),
                             scale.data(),
                             shift.data(),
                             low,
                             high,
                             reinterpret_cast<float*>(p.inside(output))};
    constexpr int kPart = 64;  // channels of a task
    p.workspace_->pool.run((v.channels + kPart - 1) / kPart, [&](int task, int) {
      const int first = task * kPart;
      p.isa_.table->pointwise.average_pool(now, first, std::min(kPart, v.channels - first));
    });
  }
};

struct Program::LinearStep : Step {
  int input, output;
  Linear base;
  std::vector<float> scale, bias;
  std::vector<std::int16_t> quantized;
  void run(Program& p) override {
    Linear now = base;
    now.scale = scale.data();
    now.bias = bias.data();
    now.quantized = quantized.data();
    now.input = reinterpret_cast<const float*>(p.inside(input));
    now.output = reinterpret_cast<float*>(p.inside(output));
    const float largest = p.isa_.table->pointwise.quantize_input(now);
    constexpr int kPart = 64;  // outputs of a task
    p.workspace_->pool.run((now.outputs + kPart - 1) / kPart, [&](int task, int) {
      const int first = task * kPart;
      p.isa_.table->pointwise.linear(now, largest, first, std::min(kPart, now.outputs - first));
    });
  }
};

Program::Program(const Isa& isa, std::shared_ptr<Workspace> workspace)
    : isa_(isa), workspace_(std::move(workspace)) {}

Program::~Program() = default;

Value& Program::at(int id) {
  if (id < 0 || id >= static_cast<int>(values_.size()))
    throw std::invalid_argument("no such value");
  return values_[static_cast<std::size_t>(id)];
}

void Program::writes(int id) {
  Value& v = at(id);
  if (v.written >= 0) throw std::invalid_argument("a value is written twice");
  v.written = v.read = finished_step();
}

void Program::reads(int id) {
  Value& v = at(id);
  if (v.written < 0) throw std::invalid_argument("a value is read before it is written");
  v.read = finished_step();
}

int Program::value(Kind kind, int channels, int height, int width, int fill) {
  if (channels < 1 || height < 1 || width < 1) throw std::invalid_argument("an empty value");
  values_.push_back({kind, channels, height, width, fill});
  const int id = static_cast<int>(values_.size()) - 1;
  if (kind == Kind::image) {
    if (id != 0 || channels != 4) throw std::invalid_argument("the image: value 0, 4 channels");
    writes(id);
    steps_.push_back(std::make_unique<ImageStep>(id));
  }
  return id;
}

namespace {

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

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

}  // namespace

void Program::conv(const ConvKernel& kernel, ConvShape shape, int input, const void* prepared,
                   const ConvWeights& source, const EpilogueTables& tables) {
  Value& in = at(input);
  require((in.kind == Kind::real) == shape.real, "kind of the input");
  shape.in_h = in.height;
  shape.in_w = in.width;
  shape.pixel_bytes = in.conv_bytes();
  require(shape.in_channels == in.channels, "channels of the input");
  for (const int id : {tables.keep, tables.codes}) {
    if (id < 0) continue;
    const Value& out = at(id);
    require(shape.out_h == 0 || (out.height == shape.out_h && out.width == shape.out_w),
            "shape of the output");
    require(out.channels == shape.out_channels, "channels of the output");
    shape.out_h = out.height;
    shape.out_w = out.width;
  }
  require(shape.out_h > 0, "a convolution writes something");
  const Reach reach = reach_of(shape);
  require(reach.below < reach.height && reach.right < reach.width,
          "the input is smaller than the kernel");
  if (!shape.real) in.border = std::max(in.border, padding_of(shape));
  require(takes(kernel, shape), "the kernel cannot compute this convolution");
  require(prepared != nullptr || kernel.low_memory, "the kernel needs prepared weights");
  reads(input);
  ConvRun run = {};
  run.shape = shape;
  run.weights = prepared;
  run.source = source;
  if (tables.add >= 0) reads(tables.add);
  if (tables.keep >= 0) writes(tables.keep);
  if (tables.codes >= 0) writes(tables.codes);
  steps_.push_back(std::make_unique<ConvStep>(kernel, run, input, tables));
}

void Program::map(int input, const EpilogueTables& tables) {
  const Value& in = at(input);
  require(in.kind != Kind::image, "a map reads codes or float values");
  ConvShape shape = {};
  shape.out_channels = in.channels;
  shape.out_h = in.height;
  shape.out_w = in.width;
  reads(input);
  if (tables.add >= 0) reads(tables.add);
  if (tables.keep >= 0) writes(tables.keep);
  if (tables.codes >= 0) writes(tables.codes);
  steps_.push_back(std::make_unique<MapStep>(input, shape, tables));
}

void Program::max_pool(int input, int output, const int (&g)[6]) {
  const Value &in = at(input), &out = at(output);
  require(in.kind == out.kind && in.channels == out.channels, "kind and channels of a pooling");
  MaxPool base = {};
  base.channels = in.channels;
  base.kernel_h = g[0], base.kernel_w = g[1];
  base.stride_h = g[2], base.stride_w = g[3];
  base.pad_h = g[4], base.pad_w = g[5];
  base.in_h = in.height, base.in_w = in.width;
  base.out_h = out.height, base.out_w = out.width;
  base.element = in.kind == Kind::real ? 4 : 1;
  base.in_pixel = in.pixel_bytes();
  base.out_pixel = out.pixel_bytes();
  require(base.pad_h < base.kernel_h && base.pad_w < base.kernel_w, "padding of a pooling");
  require((out.height - 1) * g[2] - g[4] < in.height && (out.width - 1) * g[3] - g[5] < in.width,
          "a window outside the input");
  reads(input);
  writes(output);
  steps_.push_back(std::make_unique<MaxPoolStep>(input, output, base));
}

void Program::average_pool(int input, int output, const float* scale, const float* shift, float low,
                           float high) {
  const Value &in = at(input), &out = at(output);
  require(in.kind == Kind::real && out.kind == Kind::real && out.channels == in.channels &&
              out.height == 1 && out.width == 1,
          "an average pooling: float values, one pixel out");
  reads(input);
  writes(output);
  auto step = std::make_unique<AveragePoolStep>();
  step->input = input, step->output = output;
  step->scale.assign(scale, scale + in.channels);
  step->shift.assign(shift, shift + in.channels);
  step->low = low, step->high = high;
  steps_.push_back(std::move(step));
}

void Program::linear(int input, int output, int limit, const std::int8_t* weight,
                     const float* scale, const float* bias) {
  const Value &in = at(input), &out = at(output);
  require(in.kind == Kind::real && out.kind == Kind::real && in.height * in.width == 1 &&
              out.height * out.width == 1,
          "a linear layer: float values of one pixel");
  reads(input);
  writes(output);
  auto step = std::make_unique<LinearStep>();
  step->input = input, step->output = output;
  step->base = {};
  step->base.inputs = in.channels;
  step->base.outputs = out.channels;
  step->base.limit = limit;
  step->base.weight = weight;
  step->scale.assign(scale, scale + out.channels);
  step->bias.assign(bias, bias + out.channels);
  step->quantized.resize(static_cast<std::size_t>(in.channels));
  steps_.push_back(std::move(step));
}

// First fit: a value takes the lowest place that is free from the step that writes it to the last
// one that reads it. Largest values first, so that small ones fill the gaps.
void Program::finish() {
  std::vector<Value*> order;
  for (Value& v : values_) {
    if (v.written >= 0) order.push_back(&v);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const Value* a, const Value* b) { return a->bytes() > b->bytes(); });
  std::vector<const Value*> placed;
  for (Value* v : order) {
    std::vector<const Value*> beside;
    for (const Value* other : placed) {
      if (other->written <= v->read && v->written <= other->read) beside.push_back(other);
    }
    std::sort(beside.begin(), beside.end(),
              [](const Value* a, const Value* b) { return a->offset < b->offset; });
    std::size_t offset = 0;
    for (const Value* other : beside) {
      if (offset + v->bytes() <= other->offset) break;
      offset = std::max(offset, other->offset + other->bytes());
    }
    v->offset = offset;
    placed.push_back(v);
    value_bytes_ = std::max(value_bytes_, offset + v->bytes());
  }
  std::size_t shared = 0;
  for (const auto& step : steps_) {
    const auto* conv = dynamic_cast<const ConvStep*>(step.get());
    if (conv == nullptr) continue;
    ConvShape shape = conv->base.shape;
    shape.border = border_of(*conv);
    const bool prepared = conv->base.weights != nullptr;
    scratch_bytes_ = std::max(scratch_bytes_, lines(conv->kernel.scratch_bytes(shape, prepared)));
    shared = std::max(shared, lines(conv->kernel.input_bytes(shape)));
  }
  std::lock_guard<std::mutex> lock(workspace_->mutex);
  const std::size_t threads = static_cast<std::size_t>(workspace_->pool.threads());
  if (workspace_->values.size() < value_bytes_) {
    workspace_->values = Buffer();  // never both at once
    workspace_->values = Buffer(value_bytes_);
    // Bytes beyond a pixel's channels must be levels.
    std::memset(workspace_->values.data(), 0, workspace_->values.size());
  }
  const std::size_t scratch = scratch_bytes_ * threads + shared;
  if (workspace_->scratch.size() < scratch) {
    workspace_->scratch = Buffer();
    workspace_->scratch = Buffer(scratch);
  }
}

std::uint8_t* Program::inside(int id) const {
  const Value& v = values_[static_cast<std::size_t>(id)];
  return workspace_->values.data() + v.offset + v.border * (v.row() + v.pixel_bytes());
}

std::uint8_t* Program::scratch(int thread) const {
  return workspace_->scratch.data() + static_cast<std::size_t>(thread) * scratch_bytes_;
}

// A value's border serves all that read it; of floats each convolution makes its own.
int Program::border_of(const ConvStep& conv) const {
  const ConvShape& s = conv.base.shape;
  return s.real ? padding_of(s) : values_[static_cast<std::size_t>(conv.input)].border;
}

void Program::fill_border(int id) const {
  const Value& v = values_[static_cast<std::size_t>(id)];
  std::uint8_t* start = workspace_->values.data() + v.offset;
  const std::size_t row = static_cast<std::size_t>(v.row());
  const std::size_t side = static_cast<std::size_t>(v.border) * v.pixel_bytes();
  // Rows above; then the right end of each row with the left end of the next; rows below.
  std::uint8_t* first = start + v.border * row;
  if (v.border > 0) {
    std::memset(start, v.fill, v.border * row + side);
    for (int y = 1; y < v.height; ++y) {
      std::memset(first + static_cast<std::size_t>(y) * row - side, v.fill, 2 * side);
    }
  }
  std::uint8_t* end = first + static_cast<std::size_t>(v.height) * row;
  std::memset(end - side, v.fill, side + v.border * row);
  std::memset(end + v.border * row, 0, kSlack);
}

Epilogue Program::bind(const Tables& tables) const {
  Epilogue e = tables.epilogue;
  const EpilogueTables& given = tables.given;
  if (given.add >= 0) e.add = reinterpret_cast<const float*>(inside(given.add));
  if (given.keep >= 0) e.keep = reinterpret_cast<float*>(inside(given.keep));
  if (given.codes >= 0) {
    const Value& v = values_[static_cast<std::size_t>(given.codes)];
    fill_border(given.codes);
    e.codes = inside(given.codes);
    e.codes_row = v.row();
    e.codes_pixel = v.pixel_bytes();
  }
  return e;
}

void Program::image(const std::uint8_t* from, double* seconds, int last_step) {
  images_ = from;
  for (int i = 0; i <= last_step; ++i) {
    if (seconds == nullptr) {
      steps_[static_cast<std::size_t>(i)]->run(*this);
      continue;
    }
    const auto start = std::chrono::steady_clock::now();
    steps_[static_cast<std::size_t>(i)]->run(*this);
    seconds[i] += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
}

void Program::run(const std::uint8_t* images, int count, int result, float* logits,
                  double* seconds) {
  const Value& in = at(0);
  const Value& out = at(result);
  require(out.kind == Kind::real && out.height * out.width == 1, "the result: one float pixel");
  const std::size_t bytes = 3 * static_cast<std::size_t>(in.height) * in.width;
  std::lock_guard<std::mutex> lock(workspace_->mutex);
  for (int i = 0; i < count; ++i) {
    image(images + static_cast<std::size_t>(i) * bytes, seconds, finished_step() - 1);
    std::memcpy(logits + static_cast<std::size_t>(i) * out.channels, inside(result),
                static_cast<std::size_t>(out.channels) * sizeof(float));
  }
}

void Program::inspect(const std::uint8_t* from, int id, void* out) {
  const Value& v = at(id);
  std::lock_guard<std::mutex> lock(workspace_->mutex);
  image(from, nullptr, v.written);
  const std::size_t pixel = static_cast<std::size_t>(v.channels) * (v.kind == Kind::real ? 4 : 1);
  for (int y = 0; y < v.height; ++y) {
    for (int x = 0; x < v.width; ++x) {
      std::memcpy(
          static_cast<std::uint8_t*>(out) + (static_cast<std::size_t>(y) * v.width + x) * pixel,
          inside(id) + y * v.row() + static_cast<std::int64_t>(x) * v.pixel_bytes(), pixel);
    }
  }
}

}  // namespace rsquant
