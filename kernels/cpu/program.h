// A packed network at one size: steps over values in one block of memory, run as a whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "conv.h"
#include "dispatch.h"
#include "pointwise.h"
#include "pool.h"

namespace rsquant {

// Memory aligned to 64 bytes.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;

  std::uint8_t* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
};

// Threads and working memory that the programs of a session share; one program runs at a time.
struct Workspace {
  explicit Workspace(int threads) : pool(threads) {}
  Pool pool;
  Buffer values;
  Buffer scratch;
  std::mutex mutex;
};

enum class Kind { image, codes, real };

// An image or activation; see conv.h for its layout.
struct Value {
  Kind kind;
  int channels, height, width;
  int fill;        // byte of the value 0
  int border = 0;  // grows with the padding of the convolutions that read it
  std::size_t offset = 0;
  int written = -1, read = -1;  // first and last step

  int pixel_bytes() const;
  int conv_bytes() const;    // C' of a convolution that reads it
  std::int64_t row() const;  // bytes
  std::size_t bytes() const;
};

// Tables per channel as they are given, (O,) each; copied and filled up.
struct EpilogueTables {
  const std::int32_t* correction;
  const float* scale;
  const float* shift;
  int thresholds;            // L - 1, 0 without codes
  const void* threshold;     // (L - 1, O), 4 bytes each
  const std::int32_t* step;  // (L - 1,)
  const std::int32_t* base;
  const std::int32_t* sign;
  bool integer;
  float low, high;
  int add, keep, codes;  // values, -1: none
};

class Program {
 public:
  Program(const Isa& isa, std::shared_ptr<Workspace> workspace);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  int value(Kind kind, int channels, int height, int width, int fill);
  // `prepared` may be null for a kernel with low_memory; pointers must outlive the program.
  void conv(const ConvKernel& kernel, ConvShape shape, int input, const void* prepared,
            const ConvWeights& source, const EpilogueTables& tables);
  void map(int input, const EpilogueTables& tables);
  void max_pool(int input, int output, const int (&geometry)[6]);
  void average_pool(int input, int output, const float* scale, const float* shift, float low,
                    float high);
  void linear(int input, int output, int limit, const std::int8_t* weight, const float* scale,
              const float* bias);
  // Lays out the memory. Nothing may be added afterwards.
  void finish();

  std::size_t value_bytes() const { return value_bytes_; }
  std::size_t scratch_bytes() const { return scratch_bytes_; }
  std::size_t step_count() const { return steps_.size(); }
  int value_count() const { return static_cast<int>(values_.size()); }
  const Value& value_at(int id) const { return values_[static_cast<std::size_t>(id)]; }

  // images: (count, 3, H, W). logits: (count, classes), the value `result`. `seconds`: null, or
  // one per step, where the time of each step is added up.
  void run(const std::uint8_t* images, int count, int result, float* logits, double* seconds);
  // Runs one image and copies a value out, without its border: (H, W, C).
  void inspect(const std::uint8_t* image, int id, void* out);

 private:
  struct Step;
  struct Tables;
  struct ImageStep;
  struct ConvStep;
  struct MapStep;
  struct MaxPoolStep;
  struct AveragePoolStep;
  struct LinearStep;

  Value& at(int id);
  void writes(int id);
  void reads(int id);
  void reserve();
  void image(const std::uint8_t* from, double* seconds, int last_step);
  Epilogue bind(const Tables& tables) const;
  int border_of(const ConvStep& conv) const;
  void fill_border(int id) const;
  std::uint8_t* inside(int id) const;
  std::uint8_t* scratch(int thread) const;
  int finished_step() const { return static_cast<int>(steps_.size()); }

  const Isa& isa_;
  std::shared_ptr<Workspace> workspace_;
  std::vector<Value> values_;
  std::vector<std::unique_ptr<Step>> steps_;
  std::size_t value_bytes_ = 0;
  std::size_t scratch_bytes_ = 0;  // per thread
  const std::uint8_t* images_ = nullptr;
};

}  // namespace rsquant
