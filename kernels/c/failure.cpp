#include "failure.h"

#include <cstdint>

namespace rsquant::packed {
namespace {

constexpr std::size_t kLongest = 2000;

// The character that begins at a place of UTF-8, and its bytes; 0 bytes where there is none.
struct Character {
  std::uint32_t code;
  std::size_t bytes;
};

Character character_at(const std::string& text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t first = byte(at);
  if (first < 0x80) return {first, 1};
  const std::size_t bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || at + bytes > text.size()) return {0, 0};
  std::uint32_t code = first & (0x7F >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return {0, 0};
    code = code << 6 | (byte(at + i) & 0x3F);
  }
  return {code, bytes};
}

// Control characters, zero widths, bidirectional overrides, separators, halves of characters.
bool prints(std::uint32_t c) {
  if (c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0xAD) return false;
  if ((c >= 0x200B && c <= 0x200F) || (c >= 0x2028 && c <= 0x202E)) return false;
  if ((c >= 0x2060 && c <= 0x206F) || (c >= 0xD800 && c <= 0xF8FF)) return false;
  return c != 0xFEFF && c < 0xE0000;
}

}  // namespace

std::string brief(const std::string& text, std::size_t longest) {
  if (text.size() <= longest) return text;
  std::size_t end = longest;
  while (end > 0 && (static_cast<std::uint8_t>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end);
}

std::string one_line(const std::string& text) {
  static const char kDigits[] = "0123456789abcdef";
  std::string shown;
  for (std::size_t at = 0; at < text.size() && shown.size() < kLongest;) {
    const Character c = character_at(text, at);
    if (c.bytes > 0 && prints(c.code)) {
      shown.append(text, at, c.bytes);
      at += c.bytes;
      continue;
    }
    const std::uint8_t byte = static_cast<std::uint8_t>(text[at++]);
    shown += "\\x";
    shown += kDigits[byte >> 4];
    shown += kDigits[byte & 15];
  }
  return shown;
}

}  // namespace rsquant::packed
