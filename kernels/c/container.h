// The container of a packed network, docs/formats.md: a safetensors file that is aligned and
// checksummed. Nothing in a file is believed before it is checked.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "json.h"
#include "program.h"

namespace rsquant::packed {

enum class Type { u8, i8, i16, f32, u32 };
std::size_t bytes_of(Type type);
const char* name_of(Type type);

template <class T>
constexpr Type type_of();
template <>
constexpr Type type_of<std::uint8_t>() {
  return Type::u8;
}
template <>
constexpr Type type_of<std::int8_t>() {
  return Type::i8;
}
template <>
constexpr Type type_of<std::int16_t>() {
  return Type::i16;
}
template <>
constexpr Type type_of<float>() {
  return Type::f32;
}

// Numbers of a file, or a copy of some of them.
struct Tensor {
  Type type;
  std::vector<std::int64_t> shape;  // 1 to 4 sizes, none of them 0
  const std::uint8_t* data;
  std::shared_ptr<const std::vector<std::uint8_t>> own = {};  // what `data` points into, of a copy

  std::int64_t count() const;
  // All numbers in C order; of the type that was checked.
  template <class T>
  std::span<const T> numbers() const {
    require(type == type_of<T>(), "type of a tensor");
    return {reinterpret_cast<const T*>(data), static_cast<std::size_t>(count())};
  }
};

using Tensors = std::map<std::string, Tensor>;

struct Container {
  std::shared_ptr<const Buffer> file;  // what the tensors point into
  Tensors tensors;                     // without fillers and checksum
  Json metadata;
  std::uint32_t checksum;
};

// Throws Failure: the file is missing, altered, truncated, or of another format.
Container read_file(const std::string& path);
// `path` is for messages.
Container read_bytes(const std::string& path, const std::uint8_t* data, std::size_t bytes);

// The CRC-32 of zlib.
std::uint32_t crc32(const std::uint8_t* data, std::size_t bytes);

}  // namespace rsquant::packed
