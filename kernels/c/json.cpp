#include "json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

namespace rsquant::packed {
namespace {

// A packed file has five levels.
constexpr int kMostDepth = 64;
// Of an integer: Python's reader, whose rules these are, refuses more.
constexpr std::size_t kMostDigits = 4300;

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  Json whole() {
    skip();
    Json found = value(0);
    skip();
    if (at_ != text_.size()) fail("something follows the value");
    return found;
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw JsonError{std::string(what) + ", character " + std::to_string(at_)};
  }

  bool has(char c) const { return at_ < text_.size() && text_[at_] == c; }
  bool digit() const { return at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; }

  void skip() {
    while (has(' ') || has('\t') || has('\n') || has('\r')) ++at_;
  }

  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json value(int depth) {
    if (depth > kMostDepth) fail("it is nested too deeply");
    if (has('{')) return {members(depth)};
    if (has('[')) return {items(depth)};
    if (has('"')) return {string()};
    if (take("null")) return {};
    if (take("true")) return {true};
    if (take("false")) return {false};
    if (take("NaN") || take("Infinity") || take("-Infinity")) fail("a number is not finite");
    return number();
  }

  Items items(int depth) {
    Items found;
    ++at_, skip();
    if (has(']')) return ++at_, found;
    for (;;) {
      found.push_back(value(depth + 1));
      skip();
      if (has(']')) return ++at_, found;
      if (!has(',')) fail("a ',' or ']' is missing");
      ++at_, skip();
    }
  }

  Members members(int depth) {
    Members found;
    ++at_, skip();
    if (has('}')) return ++at_, found;
    for (;;) {
      if (!has('"')) fail("a name is missing");
      std::string name = string();
      skip();
      if (!has(':')) fail("a ':' is missing");
      ++at_, skip();
      found.emplace_back(std::move(name), value(depth + 1));
      skip();
      if (has('}')) break;
      if (!has(',')) fail("a ',' or '}' is missing");
      ++at_, skip();
    }
    ++at_;
    std::vector<const std::string*> names;
    for (const auto& [name, _] : found) names.push_back(&name);
    std::sort(names.begin(), names.end(), [](auto* a, auto* b) { return *a < *b; });
    const auto twice =
        std::adjacent_find(names.begin(), names.end(), [](auto* a, auto* b) { return *a == *b; });
    if (twice != names.end()) fail("a name occurs twice");
    return found;
  }

  std::string string() {
    std::string found;
    ++at_;
    for (;;) {
      if (at_ == text_.size()) fail("a text has no end");
      const char c = text_[at_];
      if (static_cast<unsigned char>(c) < 0x20) fail("a text has a control character");
      ++at_;
      if (c == '"') return found;
      if (c == '\\') {
        escape(found);
      } else {
        found += c;
      }
    }
  }

  void escape(std::string& to) {
    if (at_ == text_.size()) fail("a text has no end");
    const char c = text_[at_++];
    static constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
    const std::size_t place = kFrom.find(c);
    if (place != std::string_view::npos) {
      to += kTo[place];
      return;
    }
    if (c != 'u') fail("a text has an unknown escape");
    std::uint32_t code = hex();
    const bool pair = code >= 0xD800 && code < 0xDC00 && text_.substr(at_, 2) == "\\u";
    if (pair) {
      const std::size_t before = at_;
      at_ += 2;
      const std::uint32_t low = hex();
      if (low >= 0xDC00 && low < 0xE000) {
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      } else {
        at_ = before;
      }
    }
    append(to, code);
  }

  std::uint32_t hex() {
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = at_ < text_.size() ? text_[at_] : ' ';
      const int n = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
      if (n < 0) fail("a text has an escape without four digits");
      code = code * 16 + static_cast<std::uint32_t>(n);
      ++at_;
    }
    return code;
  }

  // A half of a pair alone is written as if it were a character: names stay different.
  static void append(std::string& to, std::uint32_t code) {
    const auto add = [&](std::uint32_t byte) { to += static_cast<char>(byte); };
    if (code < 0x80) {
      add(code);
    } else if (code < 0x800) {
      add(0xC0 | code >> 6), add(0x80 | (code & 63));
    } else if (code < 0x10000) {
      add(0xE0 | code >> 12), add(0x80 | (code >> 6 & 63)), add(0x80 | (code & 63));
    } else {
      add(0xF0 | code >> 18), add(0x80 | (code >> 12 & 63));
      add(0x80 | (code >> 6 & 63)), add(0x80 | (code & 63));
    }
  }

  Json number() {
    const std::size_t start = at_;
    if (has('-')) ++at_;
    const std::size_t first = at_;
    if (!digit()) {
      at_ = start;
      fail("a value is missing");
    }
    while (digit()) ++at_;
    if (text_[first] == '0' && at_ - first > 1) fail("a number begins with 0");
    const std::size_t digits = at_ - first;
    bool whole = true;
    if (has('.')) {
      whole = false;
      ++at_;
      if (!digit()) fail("a number ends in a point");
      while (digit()) ++at_;
    }
    if (has('e') || has('E')) {
      whole = false;
      ++at_;
      if (has('+') || has('-')) ++at_;
      if (!digit()) fail("a number has no exponent");
      while (digit()) ++at_;
    }
    const std::string_view found = text_.substr(start, at_ - start);
    if (!whole) {
      const double value = nearest(found);
      if (!std::isfinite(value)) fail("a number is not finite");
      return {value};
    }
    if (digits > kMostDigits) fail("a number has too many digits");
    std::int64_t value = 0;
    const auto end = found.data() + found.size();
    if (std::from_chars(found.data(), end, value).ec == std::errc()) return {value};
    return {Large{nearest(found)}};
  }

  // The nearest float64, infinite or 0 where it lies beyond them.
  static double nearest(std::string_view number) {
    double value = 0.0;
    const char* end = number.data() + number.size();
    if (std::from_chars(number.data(), end, value).ec == std::errc()) return value;
    const bool negative = number[0] == '-';
    const double size = is_huge(number) ? HUGE_VAL : 0.0;
    return negative ? -size : size;
  }

  // Of a number that is no float64: whether it is too large, not too small.
  static bool is_huge(std::string_view number) {
    const std::size_t mark = number.find_first_of("eE");
    const std::string_view digits = number.substr(0, mark);
    const std::size_t point = std::min(digits.find('.'), digits.size());
    const std::size_t first = digits.find_first_of("123456789");
    if (first == std::string_view::npos) return false;
    double exponent = 0.0;  // saturates: its own digits may be any number
    bool falls = false;
    if (mark != std::string_view::npos) {
      for (const char c : number.substr(mark + 1)) {
        if (c == '-') falls = true;
        if (c >= '0' && c <= '9') exponent = std::min(exponent * 10 + (c - '0'), 1e18);
      }
    }
    const double places = static_cast<double>(point) - static_cast<double>(first);
    return places + (falls ? -exponent : exponent) > 0;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

const Json* Json::find(std::string_view name) const {
  const Members* members = as<Members>();
  if (members == nullptr) return nullptr;
  for (const auto& [known, value] : *members) {
    if (known == name) return &value;
  }
  return nullptr;
}

Json read_json(std::string_view text) { return Reader(text).whole(); }

bool is_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
    const std::uint8_t first = byte(at);
    if (first < 0x80) {
      ++at;
      continue;
    }
    const std::size_t bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC2 || first > 0xF4 || at + bytes > text.size()) return false;
    for (std::size_t i = 1; i < bytes; ++i) {
      if ((byte(at + i) & 0xC0) != 0x80) return false;
    }
    const std::uint8_t second = byte(at + 1);
    const bool longer = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
    const bool half = first == 0xED && second >= 0xA0;
    if (longer || half || (first == 0xF4 && second >= 0x90)) return false;
    at += bytes;
  }
  return true;
}

}  // namespace rsquant::packed
