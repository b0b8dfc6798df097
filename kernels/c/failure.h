// What goes wrong, with the code and the line of text that a caller of the library gets.
#pragma once

#include <locale>
#include <sstream>
#include <string>
#include <utility>

#include "rsquant.h"

namespace rsquant::packed {

// Ends a call of the library.
struct Failure {
  rsq_status status;
  std::string text;
};

// A file's fields or tensors that are missing, unknown, or not what they must be; the message names
// them. Becomes a Failure where the file's name is known.
struct FieldError {
  std::string text;
};

// An operation that the file has and this library has not.
struct UnsupportedOperation {
  std::string name;
};

// All arguments, one behind the other; numbers as C writes them, whatever the program's locale.
template <class... Parts>
std::string text_of(const Parts&... parts) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  (out << ... << parts);
  return std::move(out).str();
}

// At most so many bytes of text from a file; whole characters.
std::string brief(const std::string& text, std::size_t longest = 60);

// On one line, with nothing that a terminal obeys, at most 2,000 bytes.
std::string one_line(const std::string& text);

}  // namespace rsquant::packed
