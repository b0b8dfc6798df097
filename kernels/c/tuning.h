// The file of what was measured once: rsquant/runtime/tuning.py, which shares it.
#pragma once

#include <map>
#include <string>

namespace rsquant::packed {

class TuningFile {
 public:
  // What a choice depends on -> what was fastest.
  using Choices = std::map<std::string, std::string>;

  // All choices known; none where there is no file, or one that cannot be read.
  static Choices read();
  // Adds choices to the file. Where it cannot be written, that is no error.
  static void write(const Choices& choices);
};

// The processor's name, as far as the system tells it.
std::string processor_name();

}  // namespace rsquant::packed
