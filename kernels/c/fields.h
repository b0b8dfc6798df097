// Typed reading of JSON that somebody else wrote.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "failure.h"
#include "json.h"

namespace rsquant::packed {

using Pair = std::array<int, 2>;  // height and width

constexpr double kAnyReal = -std::numeric_limits<double>::infinity();

// One JSON object, or one that holds a single value. Every field is taken once, and `finish`
// refuses those nobody took. All methods throw FieldError, naming object, field and what was
// required.
class Fields {
 public:
  // `value` must outlive it.
  Fields(const Json& value, std::string where);

  const Json& take(const char* name);
  // Whether an optional field is there, and not yet taken.
  bool has(const char* name) const;
  // Whether a field is there and null; it is taken then.
  bool is_null(const char* name);
  void finish() const;

  int integer(const char* name, std::int64_t low, std::int64_t high);
  std::optional<int> integer_or_none(const char* name, std::int64_t low, std::int64_t high);
  // A float32's range: finite, at least `low`, above zero (no denormal) if `positive`.
  double real(const char* name, double low = kAnyReal, bool positive = false);
  std::optional<double> real_or_none(const char* name, double low = kAnyReal);
  bool flag(const char* name);
  std::string text(const char* name, std::size_t longest = 500);
  std::optional<std::string> text_or_none(const char* name);
  const Items& items(const char* name, std::size_t shortest, std::size_t longest);
  std::vector<int> integers(const char* name, std::int64_t low, std::int64_t high,
                            std::size_t shortest, std::size_t longest);
  std::vector<double> reals(const char* name, std::size_t shortest, std::size_t longest,
                            bool positive = false);
  Pair pair(const char* name, std::int64_t low, std::int64_t high);

  // The same of a value that is no field by itself.
  int as_integer(const char* name, const Json& value, std::int64_t low, std::int64_t high) const;
  double as_real(const char* name, const Json& value, double low, bool positive) const;
  std::vector<int> as_integers(const char* name, const Json& value, std::int64_t low,
                               std::int64_t high, std::size_t shortest, std::size_t longest) const;

  [[noreturn]] void wrong(const char* name, const std::string& required) const;

  std::string where;

 private:
  const Json* left(const char* name) const;

  const Members* members_;
  std::vector<bool> taken_;
};

}  // namespace rsquant::packed
