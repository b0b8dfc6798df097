// Whether a network's steps and tensors agree, so that a program made of them cannot go wrong.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "plan.h"
#include "windows.h"

namespace rsquant::packed {

enum class What { image, codes, bytes, real };
const char* name_of(What what);

// A value before its size is known.
struct ValueSpec {
  What what;
  int channels;
  std::optional<int> quantizer = std::nullopt;  // of codes
  std::string scale = {};  // of bytes, value = scale * (byte - zero); names a tensor (S,)
  int zero = 0;
};

// Levels of a convolution's weights: level = offset_o + sum_k basis_ok b_k, b_k in {0, 1}.
struct Digits {
  std::vector<std::int16_t> basis;  // (O, K)
  std::vector<std::int8_t> offset;  // (O,)
  int bits;                         // K
  int largest;                      // size of a level, of all bits that a weight could have
  std::vector<std::int64_t> sums;   // (O,) of all levels, where the input has a zero point
};

// Weights of a convolution that are int8 in the file, with 16 bits each.
struct Words {
  std::vector<std::int16_t> levels;  // (O, kh, kw, C / groups), C = 4 of an image
  int largest;                       // in size
};

// A network, of one width and pair of bits; `Checker` fills in the last three.
struct Packed {
  bool gives_maps() const;  // whether logits are maps (classes, h, w), and not (classes,)

  int version;
  Network network;
  std::vector<Quantizer> quantizers;
  std::shared_ptr<const Steps> steps;
  Tensors tensors;
  bool cascade;  // whether the file has one
  std::vector<ValueSpec> values = {};
  std::map<std::string, Digits> digits = {};  // by convolution
  std::map<std::string, Words> words = {};    // by convolution
};

// What operations check themselves with; it knows the values written so far.
class Checker {
 public:
  explicit Checker(Packed& packed) : packed(packed) {}
  void check();

  // A value that an earlier step wrote, or the image.
  const ValueSpec& read(int value) const;
  // Codes or a float value, or bytes where the operation takes them.
  const ValueSpec& read_map(int value, bool bytes_too = false) const;
  const ValueSpec& read_float(int value) const;
  // Notes the next value.
  void write(int value, ValueSpec what);

  // The table of a BatchNorm; none is no BatchNorm.
  void norm(const std::optional<std::string>& name, int channels);
  // The scale of a layer, and its bias, which must be there if `bias`.
  void scales(const std::string& name, int channels, bool bias);
  // The scale of bytes, a number per resolution.
  void byte_scale(const std::string& name);
  // Refuses integer arithmetic in files of a version that does not have it.
  void integers() const;
  // Refuses in older files what the format has from a version on.
  void since(int version, const std::string& what) const;
  // Refuses integer sums beyond what float32 holds exactly.
  void exact(std::int64_t largest) const;
  // Refuses padding that the file's version does not have.
  void padding(const Padding& padding) const;

  // A float32 tensor of this shape, all finite.
  std::span<const float> floats(const std::string& name, const std::vector<std::int64_t>& shape);
  // A tensor of this type and shape; -1 stands for any size.
  const Tensor& tensor(const std::string& name, Type type, const std::vector<std::int64_t>& shape);
  // Null where there is none.
  const Tensor* find(const std::string& name) const;

  [[noreturn]] void wrong(const std::string& what) const;

  Packed& packed;

 private:
  // The last value must be logits.
  void check_result() const;

  std::set<std::string> used_;
  std::string where_;
};

}  // namespace rsquant::packed
