// JSON as its standard has it: no NaN, no infinity, no name twice, no depth without end.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace rsquant::packed {

struct Json;
using Items = std::vector<Json>;
using Members = std::vector<std::pair<std::string, Json>>;

// An integer that 64 bits do not hold: its nearest float64, which may be infinite.
struct Large {
  double nearest;
};

struct Json {
  std::variant<std::monostate, bool, std::int64_t, Large, double, std::string, Items, Members>
      value;

  template <class T>
  const T* as() const {
    return std::get_if<T>(&value);
  }
  bool is_null() const { return std::holds_alternative<std::monostate>(value); }
  // Of an object's name; null where it has none, or this is no object.
  const Json* find(std::string_view name) const;
};

// What could not be read of a text, in a few words.
struct JsonError {
  std::string text;
};

// What a text holds; throws JsonError. Texts keep the bytes they have, escapes become UTF-8.
Json read_json(std::string_view text);

bool is_utf8(std::string_view text);

}  // namespace rsquant::packed
