// A packed network at one size: steps over values in one block of memory, run as a whole. The steps
// themselves are in steps/, one file per operation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "conv.h"
#include "dispatch.h"
#include "pool.h"

namespace rsquant {

// Memory aligned to 64 bytes.
class Buffer {
 public:
  Buffer() = default;
  // In large pages where it has room for them.
  explicit Buffer(std::size_t bytes);
  // Zeros, in small pages that take no memory before they are written.
  static Buffer zeros(std::size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;

  std::uint8_t* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
  bool mapped_ = false;
};

// Threads and working memory that the programs of a session share; one program runs at a time.
// There is as much memory as the largest of them needs; with low_memory only what has been written
// to is resident.
struct Workspace {
  explicit Workspace(int threads, bool low_memory = false)
      : pool(threads), low_memory(low_memory) {}
  Pool pool;
  bool low_memory;
  Buffer values;
  Buffer scratch;
  std::mutex mutex;
};

// `codes` are bytes: levels, or values of 8 bits.
enum class Kind { image, codes, real };

// An image or activation; see conv.h for its layout.
struct Value {
  Kind kind;
  int channels, height, width;
  int fill;        // byte of the value 0
  int border = 0;  // grows with the padding of the convolutions that read it
  std::size_t offset = 0;
  int written = -1, read = -1;  // first and last step
  int home = -1;                // the value whose memory it may be written into

  int pixel_bytes() const;
  int conv_bytes() const;    // C' of a convolution that reads it
  std::int64_t row() const;  // bytes
  std::size_t bytes() const;
};

class Program;

// What an operation does at run time. It declares what it reads and writes before it is added.
struct Step {
  virtual ~Step() = default;
  virtual void run(Program& program) = 0;
  // Bytes of scratch that each thread needs, and all threads together; asked when all borders are
  // known.
  virtual std::size_t thread_scratch(const Program&) const { return 0; }
  virtual std::size_t shared_scratch(const Program&) const { return 0; }
};

class Program {
 public:
  Program(const Isa& isa, std::shared_ptr<Workspace> workspace);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // Adds a value, and for the image also the step that copies it. Returns its number.
  int value(Kind kind, int channels, int height, int width, int fill);
  // Bytes that each value needs, when all steps are added.
  std::vector<std::size_t> value_sizes();
  // Where each value is, from the start of a block of `total` bytes. Throws unless every value has
  // a place of its own from the step that writes it to the last that reads it. Nothing may be added
  // afterwards.
  void finish(const std::vector<std::size_t>& offsets, std::size_t total);

  std::size_t value_bytes() const { return value_bytes_; }
  std::size_t scratch_bytes() const { return scratch_bytes_; }
  std::size_t step_count() const { return steps_.size(); }
  int value_count() const { return static_cast<int>(values_.size()); }
  const Value& value_at(int id) const;

  // images: (count, 3, H, W). logits: (count, C, H, W), the value `result`. `seconds`: null, or
  // one per step, where the time of each step is added up.
  void run(const std::uint8_t* images, int count, int result, float* logits, double* seconds);
  // Runs one image and copies a value out, without its border: (H, W, C).
  void inspect(const std::uint8_t* image, int id, void* out);

  // --- For operations that add themselves: declare, then add. ---
  void reads(int id);
  void writes(int id);
  // The input of convolutions of bytes has a border at least as wide as their padding.
  void needs_border(int id, int border);
  // The step reads each element of `from` before it writes that of `to`, on the same thread.
  void in_place(int from, int to);
  void add(std::unique_ptr<Step> step);

  // --- For steps that run. ---
  int threads() const { return workspace_->pool.threads(); }
  const Isa& isa() const { return isa_; }
  const std::uint8_t* image() const { return images_; }  // (3, H, W)
  std::uint8_t* start(int id) const;                     // of a value's border
  std::uint8_t* inside(int id) const;                    // pixel (0, 0)
  float* floats(int id) const { return reinterpret_cast<float*>(inside(id)); }
  void fill_border(int id) const;
  std::uint8_t* scratch(int thread) const;
  std::uint8_t* shared_scratch() const;
  // Calls task(number, thread) for all numbers, on the workspace's threads.
  template <class Task>
  void parallel(int tasks, Task task) {
    workspace_->pool.run(tasks, task);
  }
  // The same, and begin(thread) before the first task of each thread that has one.
  template <class Begin, class Task>
  void parallel(int tasks, Begin begin, Task task) {
    workspace_->pool.run(tasks, begin, task);
  }

 private:
  Value& changed(int id);
  bool apart(const Value& one, const Value& other) const;
  void reserve();
  void image(const std::uint8_t* from, double* seconds, int last_step);
  int finished_step() const { return static_cast<int>(steps_.size()); }

  const Isa& isa_;
  std::shared_ptr<Workspace> workspace_;
  std::vector<Value> values_;
  std::vector<std::unique_ptr<Step>> steps_;
  std::size_t value_bytes_ = 0;
  std::size_t scratch_bytes_ = 0;         // per thread
  std::size_t shared_scratch_bytes_ = 0;  // of all threads together
  bool finished_ = false;
  const std::uint8_t* images_ = nullptr;
};

// Throws std::invalid_argument; what a user can get wrong was checked before.
void require(bool condition, const char* what);

}  // namespace rsquant
