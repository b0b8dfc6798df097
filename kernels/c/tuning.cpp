#include "tuning.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "json.h"

namespace rsquant::packed {
namespace {

// Empty where there is no home and no variable names a folder.
std::filesystem::path cache_file() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::filesystem::path(value == nullptr ? "" : value);
  };
  if (const auto folder = variable("RSQUANT_CACHE"); !folder.empty()) return folder / "tuning.json";
  auto base = variable("XDG_CACHE_HOME");
  if (base.empty()) {
    base = variable("HOME");
    if (base.empty()) return {};
    base /= ".cache";
  }
  return base / "rsquant" / "tuning.json";
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    char escaped[8];
    if (c == '"' || c == '\\') {
      out += '\\', out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      std::snprintf(escaped, sizeof escaped, "\\u%04x", c);
      out += escaped;
    } else {
      out += c;
    }
  }
  return out + '"';
}

}  // namespace

TuningFile::Choices TuningFile::read() {
  Choices found;
  const auto path = cache_file();
  if (path.empty()) return found;
  std::ifstream file(path, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  try {
    const Json json = read_json(text);
    const Members* members = json.as<Members>();
    if (members == nullptr) return found;
    for (const auto& [key, value] : *members) {
      if (const std::string* kernel = value.as<std::string>()) found.emplace(key, *kernel);
    }
  } catch (const JsonError&) {
  }
  return found;
}

void TuningFile::write(const Choices& choices) {
  const auto path = cache_file();
  if (path.empty()) return;
  Choices all = choices;
  all.merge(read());
  std::error_code error;
  std::filesystem::create_directories(path.parent_path(), error);
  static std::atomic<unsigned> writes = 0;  // threads open networks at the same time
  const std::filesystem::path temporary =
      path.string() + "." + std::to_string(getpid()) + "." + std::to_string(writes++) + ".c";
  {
    std::ofstream file(temporary, std::ios::binary);
    file << "{";
    const char* before = "\n";
    for (const auto& [key, kernel] : all) {
      file << before << quoted(key) << ": " << quoted(kernel);
      before = ",\n";
    }
    file << "\n}";
    file.close();
    if (file.good()) std::filesystem::rename(temporary, path, error);
  }
  std::filesystem::remove(temporary, error);
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name") && !line.starts_with("CPU part")) continue;
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) return "";
    const std::size_t first = line.find_first_not_of(" \t", colon + 1);
    const std::size_t last = line.find_last_not_of(" \t\r");
    return first == std::string::npos ? "" : line.substr(first, last + 1 - first);
  }
  utsname system;
  return uname(&system) == 0 ? system.machine : "";
}

}  // namespace rsquant::packed
