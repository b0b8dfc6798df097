// Altered packed files through the C library; `make fuzz` builds it with AddressSanitizer and
// UndefinedBehaviorSanitizer.
//
//     rsq-fuzz FOLDER COUNT [FIRST]
//
// FOLDER has packed files, the seeds. File number N depends on N alone: what fails is run again
// with COUNT 1 and FIRST N. A file has other numbers in its description, exchanged or repeated
// parts, or other bytes; three of four get the right checksum, as somebody who means harm would
// give them. It must be refused with one line, or give finite logits; with a wrong checksum the
// seed's own.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "container.h"
#include "rsquant.h"

namespace {

constexpr int kSide = 32;

using Random = std::mt19937_64;

std::size_t below(Random& random, std::size_t count) { return random() % count; }

const char* const kOdd[] = {"0",        "1",           "-1",         "2",
                            "3",        "4",           "31",         "40",
                            "127",      "128",         "255",        "4096",
                            "65536",    "65537",       "2147483647", "18446744073709551616",
                            "-1e30",    "1e30",        "1e-30",      "0.5",
                            "1e999",    "null",        "true",       "[]",
                            "{}",       "NaN",         "[1, 1]",     "\\\"same\\\"",
                            "\\\"\\\"", "[2, 2, 1, 0]"};

// Where the numbers and words of a header begin and end.
struct Token {
  std::size_t begin, end;
};
std::vector<Token> tokens_of(const std::string& text) {
  std::vector<Token> found;
  const auto part = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-' || c == '_';
  };
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = at;
    while (end < text.size() && part(text[end])) ++end;
    if (end > at) found.push_back({at, end});
    at = end + 1;
  }
  return found;
}

void alter_header(std::string& text, Random& random) {
  const std::vector<Token> tokens = tokens_of(text);
  if (tokens.empty()) return;
  const Token one = tokens[below(random, tokens.size())];
  const Token other = tokens[below(random, tokens.size())];
  const std::string taken = text.substr(other.begin, other.end - other.begin);
  switch (below(random, 6)) {
    case 0:
      text.replace(one.begin, one.end - one.begin, taken);
      break;
    case 1: {  // another digit
      const std::size_t at = one.begin + below(random, one.end - one.begin);
      if (text[at] >= '0' && text[at] <= '9') text[at] = static_cast<char>('0' + below(random, 10));
      break;
    }
    case 2:
      text.erase(one.begin, below(random, 40));
      break;
    case 3:
      text.insert(one.begin, text, other.begin, below(random, 60));
      break;
    default:
      text.replace(one.begin, one.end - one.begin, kOdd[below(random, std::size(kOdd))]);
  }
}

void alter_bytes(std::string& data, Random& random) {
  if (data.empty()) return;
  const std::size_t at = below(random, data.size());
  switch (below(random, 5)) {
    case 0:
      data[at] = static_cast<char>(data[at] ^ (1 << below(random, 8)));
      break;
    case 1:
      data[at] = static_cast<char>(random());
      break;
    case 2:
      data.resize(at);
      break;
    case 3:
      for (std::size_t i = at; i < data.size() && i < at + 4; ++i)
        data[i] = static_cast<char>(random());
      break;
    default: {
      const std::size_t from = below(random, data.size());
      data.replace(at, 1 + below(random, 63), data.substr(from, 1 + below(random, 63)));
    }
  }
}

struct File {
  std::string data;
  bool sealed;  // with the right checksum
};

File altered(const std::string& seed, Random& random) {
  std::uint64_t length;
  std::memcpy(&length, seed.data(), 8);
  std::string header = seed.substr(8, length), body = seed.substr(8 + length);
  File file = {{}, below(random, 4) != 0};
  const std::size_t kind = below(random, 10);
  for (std::size_t times = 1 + below(random, 3); times > 0; --times) {
    if (kind < 7) {
      alter_header(header, random);
    } else {
      alter_bytes(kind < 9 ? body : header, random);
    }
  }
  if (below(random, 20) != 0) header.append((64 - (8 + header.size()) % 64) % 64, ' ');
  length = header.size();
  if (below(random, 100) == 0) length = random();
  file.data.assign(reinterpret_cast<const char*>(&length), 8);
  file.data += header + body;
  if (file.sealed && file.data.size() > 4) {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(file.data.data());
    const std::uint32_t crc = rsquant::packed::crc32(bytes, file.data.size() - 4);
    std::memcpy(file.data.data() + file.data.size() - 4, &crc, 4);
  }
  return file;
}

// Runs a network on one image at a setting: logits, or maps of them at a size and the class of each
// of their pixels.
rsq_status run_setting(rsq_session* session, int setting, const std::vector<std::uint8_t>& image,
                       std::vector<float>& logits) {
  rsq_status status = rsq_use_setting(session, setting);
  if (status != RSQ_OK) return status;
  const std::size_t classes = static_cast<std::size_t>(rsq_classes(session));
  if (!rsq_gives_maps(session)) {
    logits.assign(classes, NAN);
    return rsq_run(session, image.data(), 1, kSide, kSide, logits.data());
  }
  int height, width;
  status = rsq_map_size(session, kSide, kSide, &height, &width);
  if (status != RSQ_OK) return status;
  height = height % 40 + 1;  // another size, of few pixels
  logits.assign(classes * static_cast<std::size_t>(height) * kSide, NAN);
  std::vector<std::uint16_t> mask(static_cast<std::size_t>(height) * kSide, 0xFFFF);
  status = rsq_maps(session, image.data(), 1, kSide, kSide, height, kSide, logits.data());
  if (status != RSQ_OK) return status;
  status = rsq_masks(session, image.data(), 1, kSide, kSide, height, kSide, mask.data());
  for (const std::uint16_t found : mask) {
    if (found >= classes) return RSQ_INTERNAL;
  }
  return status;
}

// Opens a file and runs it on one image, at one of its settings.
rsq_status run(const std::string& data, std::size_t number, std::vector<float>& logits) {
  static const std::vector<std::uint8_t> image = [] {
    std::vector<std::uint8_t> pixels(3 * kSide * kSide);
    Random random(1);
    for (std::uint8_t& pixel : pixels) pixel = static_cast<std::uint8_t>(random());
    return pixels;
  }();
  rsq_options options;
  rsq_default_options(&options);
  options.threads = 1 + number % 50 / 49;
  options.tune = 0;
  options.low_memory = number % 3 == 0;
  rsq_session* session;
  rsq_status status = rsq_open_memory(data.data(), data.size(), &options, &session);
  if (status == RSQ_OK) {
    const int setting = static_cast<int>(number % static_cast<std::size_t>(rsq_settings(session)));
    status = run_setting(session, setting, image, logits);
  }
  rsq_close(session);
  return status;
}

int fail(std::size_t number, const char* what) {
  std::fprintf(stderr, "file %zu: %s: %s\n", number, what, rsq_error());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: rsq-fuzz FOLDER COUNT [FIRST]\n"), 2;
  std::map<std::string, std::string> seeds;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    std::ifstream file(entry.path(), std::ios::binary);
    seeds[entry.path().string()].assign(std::istreambuf_iterator<char>(file), {});
  }
  std::vector<std::string> files;
  std::vector<std::vector<float>> expected;
  for (const auto& [path, data] : seeds) {
    files.push_back(data);
    expected.emplace_back();
    if (run(data, 0, expected.back()) != RSQ_OK) return fail(0, path.c_str());
  }
  const std::size_t count = std::strtoull(argv[2], nullptr, 10);
  const std::size_t first = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0;
  std::map<int, std::size_t> outcomes;
  for (std::size_t number = first; number < first + count; ++number) {
    Random random(number);
    const std::size_t seed = below(random, files.size());
    const File file = altered(files[seed], random);
    std::vector<float> logits;
    const rsq_status status = run(file.data, file.sealed ? number : 0, logits);
    ++outcomes[status];
    if (status == RSQ_INTERNAL || status == RSQ_ARGUMENT) return fail(number, "an internal error");
    if (status != RSQ_OK) {
      if (rsq_error()[0] == 0 || std::strpbrk(rsq_error(), "\n\r\x1b") != nullptr) {
        return fail(number, "no line of text");
      }
      continue;
    }
    for (const float logit : logits) {
      if (!std::isfinite(logit)) return fail(number, "logits that are not finite");
    }
    if (!file.sealed && logits != expected[seed]) return fail(number, "a wrong answer");
  }
  const char* const kNames[] = {
      "ran",         "argument",  "refused as a file", "refused for its size",
      "unsupported", "no memory", "internal"};
  for (const auto& [status, times] : outcomes) std::printf("%s: %zu\n", kNames[status], times);
  return 0;
}
