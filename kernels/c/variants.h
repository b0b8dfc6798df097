// A file of several widths and bits, taken apart into a network for each:
// rsquant/packed/variants.py.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checker.h"

namespace rsquant::packed {

struct Variant {
  double width;  // share of the channels
  Bits bits;
};

// "x0.5 2/2"; of all channels "2/2".
std::string name_of(const Variant& variant);

// A packed file, every network of which was checked.
class PackedFile {
 public:
  // path: for messages. Throws Failure.
  PackedFile(std::string path, Container container);

  const std::vector<Variant>& variants() const { return variants_; }  // the costliest first
  const Packed& costliest() const { return *costliest_; }
  // The network of a variant. Only the costliest one's is kept: together they may be as many times
  // as large as the file as it has variants.
  std::shared_ptr<const Packed> network(std::size_t variant) const;

 private:
  Packed of_bits(Bits bits) const;
  Packed made(const Variant& variant) const;
  std::shared_ptr<const Packed> checked(const Variant& variant) const;

  std::string path_;
  std::shared_ptr<const Buffer> file_;  // what tensors point into
  Tensors tensors_;
  Plan plan_;
  std::vector<Variant> variants_;
  std::shared_ptr<const Packed> costliest_;
};

// What a step is narrowed with: the channels it is to have, and the tensors to cut.
class Narrowing {
 public:
  Narrowing(std::string where, const Fewer& fewer, Tensors& tensors)
      : where_(std::move(where)), fewer_(fewer), tensors_(tensors) {}

  // How many channels a field of a step has now.
  int count(const char* field, int before);
  // Refuses fields that `count` was not asked for.
  void finish() const;

  // Null where there is none.
  Tensor* find(const std::string& name);
  [[noreturn]] void wrong(const std::string& what) const;

 private:
  std::string where_;
  const Fewer& fewer_;
  Tensors& tensors_;
  Fewer asked_;  // how many the whole network has
};

// A copy of the first so many of a tensor along each axis, at most all; -1: all.
Tensor first_of(const Tensor& from, std::vector<std::int64_t> shape);

// A copy of bit planes (K, O, R) with the first of O rows, of whose pixels of `before` bits the
// first `after` are kept.
Tensor first_bits(const Tensor& planes, std::int64_t rows, std::int64_t pixels, std::int64_t before,
                  std::int64_t after);

}  // namespace rsquant::packed
