// Altered packed files, made in memory: what a file is depends on its number and seed alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "json.h"

namespace rsquant::fuzz {

// A packed file in its parts.
struct Parts {
  packed::Json header;    // tensors by name, and __metadata__
  packed::Json metadata;  // the text that __metadata__ has under "rsquant", read
  std::string data;       // of the tensors, the checksum last
};

// Throws std::exception: not a packed file.
Parts parts_of(const std::string& file);
// With the right checksum.
std::string file_of(const Parts& parts);

// What was altered.
enum class Kind { fields, structure, values, tensors, bytes, cut };
constexpr int kKinds = 6;
const char* name_of(Kind kind);

struct Mutant {
  std::string file;
  Kind kind;
  bool sealed;  // its checksum is right, as somebody who means harm would make it
};

// Mutant `number` of a file, whose parts these are.
Mutant mutant_of(const std::string& file, const Parts& parts, std::uint64_t seed,
                 std::uint64_t number);

}  // namespace rsquant::fuzz
