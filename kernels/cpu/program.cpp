#include "program.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

namespace rsquant {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kLargePage = std::size_t{2} << 20;
// Readable bytes behind every value, for kernels that load whole vectors.
constexpr std::size_t kSlack = 64;

std::size_t lines(std::size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

int round_up(int n, int to) { return (n + to - 1) / to * to; }

}  // namespace

Buffer::Buffer(std::size_t bytes) : size_(lines(bytes)) {
  if (size_ == 0) return;
  // Weights of a ResNet-50 fill 6,000 pages of 4 KB: each is a fault when it is written first, and
  // more than a processor keeps the addresses of when all are read for every image.
  const std::size_t large = size_ / kLargePage * kLargePage;
  const std::size_t alignment = large > 0 ? kLargePage : kLine;
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, size_) != 0) throw std::bad_alloc();
  data_ = static_cast<std::uint8_t*>(memory);
#if defined(MADV_HUGEPAGE)
  if (large > 0) madvise(data_, large, MADV_HUGEPAGE);  // a wish: it may fail
#endif
}

Buffer Buffer::zeros(std::size_t bytes) {
#if defined(__linux__)
  Buffer made;
  made.size_ = lines(bytes);
  if (made.size_ == 0) return made;
  void* memory =
      mmap(nullptr, made.size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_NOHUGEPAGE)
  madvise(memory, made.size_, MADV_NOHUGEPAGE);  // a wish: it may fail
#endif
  made.data_ = static_cast<std::uint8_t*>(memory);
  made.mapped_ = true;
#else
  Buffer made(bytes);
  if (made.size_ > 0) std::memset(made.data_, 0, made.size_);
#endif
  return made;
}

Buffer::~Buffer() {
#if defined(__linux__)
  if (mapped_) {
    munmap(data_, size_);
    return;
  }
#endif
  std::free(data_);
}

Buffer::Buffer(Buffer&& other) noexcept { *this = std::move(other); }

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(mapped_, other.mapped_);
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

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

namespace {

typedef std::uint8_t Bytes __attribute__((vector_size(16)));
typedef std::uint16_t Words __attribute__((vector_size(16)));

// 16 pixels of R, G, B, 255 from three planes.
inline void interleave(const std::uint8_t* in, std::size_t plane, std::uint8_t* pixels) {
  Bytes r, g, b, full = Bytes{} + 255;
  std::memcpy(&r, in, 16);
  std::memcpy(&g, in + plane, 16);
  std::memcpy(&b, in + 2 * plane, 16);
#define RSQUANT_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define RSQUANT_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
  const Words red_green[2] = {(Words)__builtin_shufflevector(r, g, RSQUANT_LOW),
                              (Words)__builtin_shufflevector(r, g, RSQUANT_HIGH)};
  const Words blue_full[2] = {(Words)__builtin_shufflevector(b, full, RSQUANT_LOW),
                              (Words)__builtin_shufflevector(b, full, RSQUANT_HIGH)};
#undef RSQUANT_LOW
#undef RSQUANT_HIGH
  for (int half = 0; half < 2; ++half, pixels += 32) {
    const Words &rg = red_green[half], &bf = blue_full[half];
    const Words low = __builtin_shufflevector(rg, bf, 0, 8, 1, 9, 2, 10, 3, 11);
    const Words high = __builtin_shufflevector(rg, bf, 4, 12, 5, 13, 6, 14, 7, 15);
    std::memcpy(pixels, &low, 16);
    std::memcpy(pixels + 16, &high, 16);
  }
}

// Copies the image's planes together, with a fourth channel of 255.
struct ImageStep : Step {
  explicit ImageStep(int to) : to(to) {}
  int to;
  void run(Program& p) override {
    const Value& v = p.value_at(to);
    p.fill_border(to);
    std::uint8_t* inside = p.inside(to);
    const std::size_t plane = static_cast<std::size_t>(v.height) * v.width;
    p.parallel((v.height + 15) / 16, [&](int task, int) {
      for (int y = task * 16; y < std::min(v.height, task * 16 + 16); ++y) {
        std::uint8_t* out = inside + y * v.row();
        const std::uint8_t* in = p.image() + static_cast<std::size_t>(y) * v.width;
        int x = 0;
        for (; x + 16 <= v.width; x += 16) interleave(in + x, plane, out + 4 * x);
        for (; x < v.width; ++x) {
          for (int c = 0; c < 3; ++c) out[4 * x + c] = in[c * plane + x];
          out[4 * x + 3] = 255;
        }
      }
    });
  }
};

}  // namespace

Program::Program(const Isa& isa, std::shared_ptr<Workspace> workspace)
    : isa_(isa), workspace_(std::move(workspace)) {}

Program::~Program() = default;

const Value& Program::value_at(int id) const {
  require(id >= 0 && id < value_count(), "no such value");
  return values_[static_cast<std::size_t>(id)];
}

Value& Program::changed(int id) {
  require(!finished_, "a finished program stays as it is");
  value_at(id);
  return values_[static_cast<std::size_t>(id)];
}

void Program::writes(int id) {
  Value& v = changed(id);
  require(v.written < 0, "a value is written twice");
  v.written = v.read = finished_step();
}

void Program::reads(int id) {
  Value& v = changed(id);
  require(v.written >= 0, "a value is read before it is written");
  v.read = finished_step();
}

void Program::needs_border(int id, int border) {
  Value& v = changed(id);
  require(v.kind != Kind::real, "floats have no border");
  v.border = std::max(v.border, border);
}

void Program::in_place(int from, int to) {
  value_at(from);
  changed(to).home = from;
}

void Program::add(std::unique_ptr<Step> step) {
  require(!finished_, "a finished program stays as it is");
  steps_.push_back(std::move(step));
}

int Program::value(Kind kind, int channels, int height, int width, int fill) {
  require(!finished_, "a finished program stays as it is");
  require(channels >= 1 && height >= 1 && width >= 1, "an empty value");
  values_.push_back({kind, channels, height, width, fill});
  const int id = value_count() - 1;
  if (kind == Kind::image) {
    require(id == 0 && channels == 4, "the image: value 0, 4 channels");
    writes(id);
    add(std::make_unique<ImageStep>(id));
  }
  return id;
}

std::vector<std::size_t> Program::value_sizes() {
  // Bytes of a sum take the place of bytes with a border as wide: what is read of a pixel is where
  // the sum of it goes. Along a chain of sums all get the widest.
  const auto share = [&](Value& v) {
    if (v.home < 0) return;
    Value& home = values_[static_cast<std::size_t>(v.home)];
    v.border = home.border = std::max(v.border, home.border);
  };
  for (auto v = values_.begin(); v != values_.end(); ++v) share(*v);
  for (auto v = values_.rbegin(); v != values_.rend(); ++v) share(*v);
  std::vector<std::size_t> sizes;
  for (const Value& v : values_) sizes.push_back(v.bytes());
  return sizes;
}

// Whether neither value is written into the other while that is needed.
bool Program::apart(const Value& one, const Value& other) const {
  if (one.read < other.written || other.read < one.written) return true;
  if (one.offset + one.bytes() <= other.offset) return true;
  if (other.offset + other.bytes() <= one.offset) return true;
  // In place: the step that reads `one` last writes `other` over it.
  return other.home >= 0 && &value_at(other.home) == &one && one.read == other.written &&
         one.offset == other.offset && one.bytes() == other.bytes();
}

void Program::finish(const std::vector<std::size_t>& offsets, std::size_t total) {
  require(!finished_, "a finished program stays as it is");
  require(offsets.size() == values_.size(), "places: one per value");
  std::size_t alone = 0;
  for (std::size_t i = 0; i < values_.size(); ++i) {
    Value& v = values_[i];
    require(v.written >= 0, "a value that no step writes");
    require(offsets[i] % kLine == 0, "places: multiples of 64");
    require(offsets[i] <= total && v.bytes() <= total - offsets[i], "places: inside the memory");
    v.offset = offsets[i];
    alone += v.bytes();
    for (std::size_t j = 0; j < i; ++j) {
      const Value& other = values_[j];
      require(apart(v, other) || apart(other, v), "places: two values share memory");
    }
  }
  require(total <= alone, "places: more memory than all values together");
  finished_ = true;
  value_bytes_ = total;
  for (const auto& step : steps_) {
    scratch_bytes_ = std::max(scratch_bytes_, lines(step->thread_scratch(*this)));
    shared_scratch_bytes_ = std::max(shared_scratch_bytes_, lines(step->shared_scratch(*this)));
  }
  std::lock_guard<std::mutex> lock(workspace_->mutex);
  reserve();
}

// Also before each run: where another program asked for more than there is, nothing is left.
void Program::reserve() {
  const bool low = workspace_->low_memory;
  if (workspace_->values.size() < value_bytes_) {
    workspace_->values = Buffer();  // never both at once
    workspace_->values = low ? Buffer::zeros(value_bytes_) : Buffer(value_bytes_);
    // Bytes beyond a pixel's channels must be levels.
    if (!low) std::memset(workspace_->values.data(), 0, workspace_->values.size());
  }
  const std::size_t threads = static_cast<std::size_t>(workspace_->pool.threads());
  const std::size_t scratch = scratch_bytes_ * threads + shared_scratch_bytes_;
  if (workspace_->scratch.size() < scratch) {
    workspace_->scratch = Buffer();
    workspace_->scratch = low ? Buffer::zeros(scratch) : Buffer(scratch);
  }
}

std::uint8_t* Program::start(int id) const {
  return workspace_->values.data() + values_[static_cast<std::size_t>(id)].offset;
}

std::uint8_t* Program::inside(int id) const {
  const Value& v = values_[static_cast<std::size_t>(id)];
  return start(id) + v.border * (v.row() + v.pixel_bytes());
}

std::uint8_t* Program::scratch(int thread) const {
  return workspace_->scratch.data() + static_cast<std::size_t>(thread) * scratch_bytes_;
}

std::uint8_t* Program::shared_scratch() const { return scratch(workspace_->pool.threads()); }

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
  const Value& in = value_at(0);
  const Value& out = value_at(result);
  require(out.kind == Kind::real, "the result: floats");
  const std::size_t bytes = 3 * static_cast<std::size_t>(in.height) * in.width;
  std::lock_guard<std::mutex> lock(workspace_->mutex);
  reserve();
  for (int i = 0; i < count; ++i) {
    image(images + static_cast<std::size_t>(i) * bytes, seconds, finished_step() - 1);
    // (H, W, C) to (C, H, W).
    const std::size_t pixels = static_cast<std::size_t>(out.height) * out.width;
    const std::size_t channels = static_cast<std::size_t>(out.channels);
    const float* found = floats(result);
    float* to = logits + static_cast<std::size_t>(i) * channels * pixels;
    for (std::size_t p = 0; p < pixels; ++p) {
      for (std::size_t c = 0; c < channels; ++c) to[c * pixels + p] = found[p * channels + c];
    }
  }
}

void Program::inspect(const std::uint8_t* from, int id, void* out) {
  const Value& v = value_at(id);
  std::lock_guard<std::mutex> lock(workspace_->mutex);
  reserve();
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
