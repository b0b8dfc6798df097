#include "fields.h"

#include <algorithm>

namespace rsquant::packed {
namespace {

// Characters of UTF-8.
std::size_t length_of(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

}  // namespace

Fields::Fields(const Json& value, std::string where)
    : where(std::move(where)), members_(value.as<Members>()) {
  if (members_ == nullptr) throw FieldError{this->where + " must be an object"};
  taken_.resize(members_->size());
}

const Json* Fields::left(const char* name) const {
  for (std::size_t i = 0; i < members_->size(); ++i) {
    if ((*members_)[i].first == name) return taken_[i] ? nullptr : &(*members_)[i].second;
  }
  return nullptr;
}

const Json& Fields::take(const char* name) {
  for (std::size_t i = 0; i < members_->size(); ++i) {
    if ((*members_)[i].first != name || taken_[i]) continue;
    taken_[i] = true;
    return (*members_)[i].second;
  }
  throw FieldError{text_of(where, " lacks '", name, "'")};
}

bool Fields::has(const char* name) const { return left(name) != nullptr; }

bool Fields::is_null(const char* name) {
  const Json* value = left(name);
  if (value == nullptr || !value->is_null()) return false;
  take(name);
  return true;
}

void Fields::finish() const {
  for (std::size_t i = 0; i < members_->size(); ++i) {
    if (taken_[i]) continue;
    throw FieldError{text_of(where, " has the unknown field '", brief((*members_)[i].first), "'")};
  }
}

void Fields::wrong(const char* name, const std::string& required) const {
  throw FieldError{text_of(where, ": '", name, "' must be ", required)};
}

int Fields::as_integer(const char* name, const Json& value, std::int64_t low,
                       std::int64_t high) const {
  const std::int64_t* found = value.as<std::int64_t>();
  if (found == nullptr || *found < low || *found > high) {
    wrong(name, text_of("an integer from ", low, " to ", high));
  }
  return static_cast<int>(*found);
}

int Fields::integer(const char* name, std::int64_t low, std::int64_t high) {
  return as_integer(name, take(name), low, high);
}

std::optional<int> Fields::integer_or_none(const char* name, std::int64_t low, std::int64_t high) {
  if (is_null(name)) return std::nullopt;
  return integer(name, low, high);
}

double Fields::as_real(const char* name, const Json& value, double low, bool positive) const {
  double found = 0.0;
  if (const std::int64_t* whole = value.as<std::int64_t>()) {
    found = static_cast<double>(*whole);
  } else if (const Large* large = value.as<Large>()) {
    found = large->nearest;
  } else if (const double* real = value.as<double>()) {
    found = *real;
  } else {
    wrong(name, "a number");
  }
  const double bound = std::numeric_limits<float>::max();
  if (!(std::max(low, -bound) <= found && found <= bound)) wrong(name, "a number in range");
  if (positive && found < std::numeric_limits<float>::min()) wrong(name, "a positive number");
  return found;
}

double Fields::real(const char* name, double low, bool positive) {
  return as_real(name, take(name), low, positive);
}

std::optional<double> Fields::real_or_none(const char* name, double low) {
  if (is_null(name)) return std::nullopt;
  return real(name, low);
}

bool Fields::flag(const char* name) {
  const bool* found = take(name).as<bool>();
  if (found == nullptr) wrong(name, "true or false");
  return *found;
}

std::string Fields::text(const char* name, std::size_t longest) {
  const std::string* found = take(name).as<std::string>();
  if (found == nullptr || length_of(*found) > longest) {
    wrong(name, text_of("text of at most ", longest, " characters"));
  }
  return *found;
}

std::optional<std::string> Fields::text_or_none(const char* name) {
  if (is_null(name)) return std::nullopt;
  return text(name);
}

const Items& Fields::items(const char* name, std::size_t shortest, std::size_t longest) {
  const Items* found = take(name).as<Items>();
  if (found == nullptr || found->size() < shortest || found->size() > longest) {
    wrong(name, text_of("a list of ", shortest, " to ", longest));
  }
  return *found;
}

std::vector<int> Fields::as_integers(const char* name, const Json& value, std::int64_t low,
                                     std::int64_t high, std::size_t shortest,
                                     std::size_t longest) const {
  const Items* given = value.as<Items>();
  if (given == nullptr || given->size() < shortest || given->size() > longest) {
    wrong(name, text_of("a list of ", shortest, " to ", longest));
  }
  std::vector<int> found;
  for (const Json& one : *given) found.push_back(as_integer(name, one, low, high));
  return found;
}

std::vector<int> Fields::integers(const char* name, std::int64_t low, std::int64_t high,
                                  std::size_t shortest, std::size_t longest) {
  return as_integers(name, take(name), low, high, shortest, longest);
}

std::vector<double> Fields::reals(const char* name, std::size_t shortest, std::size_t longest,
                                  bool positive) {
  std::vector<double> found;
  for (const Json& one : items(name, shortest, longest)) {
    found.push_back(as_real(name, one, kAnyReal, positive));
  }
  return found;
}

Pair Fields::pair(const char* name, std::int64_t low, std::int64_t high) {
  const std::vector<int> found = integers(name, low, high, 2, 2);
  return {found[0], found[1]};
}

}  // namespace rsquant::packed
