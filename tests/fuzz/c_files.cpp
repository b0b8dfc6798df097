// Altered packed files through the C library; `make fuzz` builds it with AddressSanitizer and
// UndefinedBehaviorSanitizer.
//
//     rsq-fuzz FOLDER COUNT [FIRST [SEED]]
//
// FOLDER has packed files to alter. Files FIRST to FIRST + COUNT - 1 are made and run; file N
// depends on N, SEED and FOLDER alone, so a run goes on where another ended, and what failed is run
// again with COUNT 1 and FIRST N. A file must be refused with one line, or give finite logits; with
// a wrong checksum the unaltered file's own.
//
// Files run in a process of their own. What ends it, or needs a minute of a processor, is kept in
// failed/ beside FOLDER and named, and another process goes on behind it.

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "c_mutants.h"
#include "rsquant.h"

namespace {

using rsquant::fuzz::Kind;
using rsquant::fuzz::kKinds;
using rsquant::fuzz::Mutant;
using rsquant::fuzz::Parts;

constexpr int kMostSide = 64;
constexpr time_t kMostSeconds = 60;  // of a processor
constexpr int kMostFailures = 20;
constexpr std::size_t kProgress = 10000;
constexpr int kStatuses = RSQ_INTERNAL + 1;
const char* const kStatusNames[kStatuses] = {"ran",         "argument", "file",    "size",
                                             "unsupported", "memory",   "internal"};

// How a file is run.
struct Way {
  std::string isa, kernel;  // no kernel: the library's choice
  bool low_memory;
  std::size_t number;  // picks setting and size
};

// Runs an image at a setting: logits, or maps of them at a size and the class of each of their
// pixels.
rsq_status run_setting(rsq_session* session, std::size_t number, std::vector<float>& logits) {
  static const std::vector<std::uint8_t> image = [] {
    std::vector<std::uint8_t> pixels(3 * kMostSide * kMostSide);
    for (std::size_t i = 0; i < pixels.size(); ++i) {
      pixels[i] = static_cast<std::uint8_t>(i * i * 2654435761u >> 13);
    }
    return pixels;
  }();
  const int setting = static_cast<int>(number % static_cast<std::size_t>(rsq_settings(session)));
  rsq_status status = rsq_use_setting(session, setting);
  if (status != RSQ_OK) return status;
  // The smallest packed size; of every eighth file one that is not packed.
  const int smallest = rsq_resolution(session, rsq_resolutions(session) - 1);
  int height = std::min(smallest, kMostSide), width = height;
  if (number % 8 == 1) {
    height = 16 + static_cast<int>(number / 8 % 33),
    width = 16 + static_cast<int>(number / 64 % 33);
  }
  const std::size_t classes = static_cast<std::size_t>(rsq_classes(session));
  if (!rsq_gives_maps(session)) {
    logits.assign(classes, NAN);
    return rsq_run(session, image.data(), 1, height, width, logits.data());
  }
  int map_height, map_width;
  status = rsq_map_size(session, height, width, &map_height, &map_width);
  if (status != RSQ_OK) return status;
  map_height = map_height % 40 + 1;  // another size, of few pixels
  const std::size_t pixels = static_cast<std::size_t>(map_height) * static_cast<std::size_t>(width);
  logits.assign(classes * pixels, NAN);
  std::vector<std::uint16_t> mask(pixels, 0xFFFF);
  status = rsq_maps(session, image.data(), 1, height, width, map_height, width, logits.data());
  if (status != RSQ_OK) return status;
  status = rsq_masks(session, image.data(), 1, height, width, map_height, width, mask.data());
  for (const std::uint16_t found : mask) {
    if (found >= classes) return RSQ_INTERNAL;
  }
  return status;
}

rsq_status run(const std::string& file, const Way& way, std::vector<float>& logits) {
  rsq_options options;
  rsq_default_options(&options);
  options.threads = 1;
  options.tune = 0;
  options.low_memory = way.low_memory;
  options.isa = way.isa.c_str();
  options.kernel = way.kernel.c_str();
  rsq_session* session;
  rsq_status status = rsq_open_memory(file.data(), file.size(), &options, &session);
  if (status == RSQ_OK) status = run_setting(session, way.number, logits);
  rsq_close(session);
  return status;
}

// Instruction sets and kernels that a file can be run with.
std::vector<Way> ways_of(const std::string& file) {
  std::vector<Way> found;
  std::vector<float> logits;
  for (const char* isa : {"scalar", "avx2", "avx512", "avx512vnni", "neon", "neondot"}) {
    for (const char* kernel : {"", "depthwise", "image", "image_bytes", "direct", "direct_words",
                               "direct_float", "lookup", "bitplanes", "winograd", "winograd6"}) {
      const Way way = {isa, kernel, false, 0};
      if (run(file, way, logits) == RSQ_OK) found.push_back(way);
    }
  }
  return found;
}

// What is altered, and how files are run.
struct Originals {
  std::vector<std::string> files;
  std::vector<Parts> parts;
  std::vector<Way> ways;

  std::size_t which(std::size_t number) const { return number % files.size(); }
  Mutant mutant(std::uint64_t seed, std::size_t number) const {
    return rsquant::fuzz::mutant_of(files[which(number)], parts[which(number)], seed, number);
  }
  Way way(std::size_t number) const {
    const std::uint64_t mixed = (number + 1) * 0x9E3779B97F4A7C15u;
    Way way = ways[(mixed >> 40) % ways.size()];
    way.low_memory = (mixed >> 32) % 3 == 0, way.number = mixed >> 48;
    return way;
  }
};

Originals read_originals(const char* folder) {
  std::map<std::string, std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    found[entry.path().string()].assign(std::istreambuf_iterator<char>(file), {});
  }
  Originals originals;
  for (const auto& [path, data] : found) {
    originals.parts.push_back(rsquant::fuzz::parts_of(data));
    originals.files.push_back(rsquant::fuzz::file_of(originals.parts.back()));
    std::vector<float> logits;
    if (run(originals.files.back(), {"", "", false, 0}, logits) != RSQ_OK) {
      throw std::runtime_error(path + ": " + rsq_error());
    }
  }
  if (found.empty()) throw std::runtime_error("no files");
  originals.ways = ways_of(originals.files[0]);
  return originals;
}

// What the process that runs files has done so far, in memory of both processes.
struct Progress {
  std::size_t number;  // of the file under way
  std::size_t outcomes[kKinds][kStatuses];
  std::size_t slowest;
  double most_ms;
};

// What is wrong with how a file ran; null: nothing.
const char* mistake(const Originals& originals, std::size_t number, const Mutant& mutant,
                    rsq_status status, const std::vector<float>& logits) {
  if (status == RSQ_INTERNAL || status == RSQ_ARGUMENT) return rsq_error();
  if (status != RSQ_OK) {
    const bool line = rsq_error()[0] != 0 && std::strpbrk(rsq_error(), "\n\r\x1b") == nullptr;
    return line ? nullptr : "no line of text";
  }
  for (const float logit : logits) {
    if (!std::isfinite(logit)) return "logits that are not finite";
  }
  if (mutant.sealed) return nullptr;
  std::vector<float> expected;
  run(originals.files[originals.which(number)], originals.way(number), expected);
  return logits == expected ? nullptr : "a wrong answer";
}

// Runs files up to `end`; false: a file was not dealt with as it should be.
bool run_files(const Originals& originals, std::uint64_t seed, std::size_t end,
               Progress& progress) {
  const itimerval most = {{0, 0}, {kMostSeconds, 0}};
  for (; progress.number < end; ++progress.number) {
    setitimer(ITIMER_PROF, &most, nullptr);
    const std::clock_t start = std::clock();
    const Mutant mutant = originals.mutant(seed, progress.number);
    std::vector<float> logits;
    const rsq_status status = run(mutant.file, originals.way(progress.number), logits);
    if (const char* wrong = mistake(originals, progress.number, mutant, status, logits)) {
      std::fprintf(stderr, "%s\n", wrong);
      return false;
    }
    ++progress.outcomes[static_cast<int>(mutant.kind)][status];
    const double took = 1e3 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    if (took > progress.most_ms) progress.most_ms = took, progress.slowest = progress.number;
    if ((progress.number + 1) % kProgress == 0) std::fprintf(stderr, "%zu\n", progress.number + 1);
  }
  return true;
}

// In a process of its own; 0: all files were run.
int run_apart(const Originals& originals, std::uint64_t seed, std::size_t end, Progress& progress) {
  const pid_t process = fork();
  if (process < 0) throw std::runtime_error("no process can be started");
  if (process == 0) std::exit(run_files(originals, seed, end, progress) ? 0 : 1);
  int status;
  waitpid(process, &status, 0);
  return status;
}

void keep(const std::filesystem::path& folder, const Originals& originals, std::uint64_t seed,
          std::size_t number, int status) {
  std::filesystem::create_directories(folder);
  const auto path = folder / (std::to_string(seed) + "_" + std::to_string(number) + ".rsq");
  const Way way = originals.way(number);
  std::ofstream(path, std::ios::binary) << originals.mutant(seed, number).file;
  std::fprintf(stderr,
               "file %zu of seed %llu (%s, kernel '%s', low_memory %d): %s %d; kept as %s\n",
               number, static_cast<unsigned long long>(seed), way.isa.c_str(), way.kernel.c_str(),
               way.low_memory, WIFSIGNALED(status) ? "signal" : "status",
               WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), path.c_str());
}

// Processor time of the processes that ran files, in milliseconds.
double processor_ms() {
  rusage used;
  getrusage(RUSAGE_CHILDREN, &used);
  const auto ms = [](const timeval& time) {
    return 1e3 * static_cast<double>(time.tv_sec) + 1e-3 * static_cast<double>(time.tv_usec);
  };
  return ms(used.ru_utime) + ms(used.ru_stime);
}

void report(const Progress& progress, std::size_t first, std::size_t count, std::uint64_t seed) {
  std::printf("files %zu to %zu, seed %llu: %.2f ms of a processor each, at most %.0f (file %zu)\n",
              first, first + count - 1, static_cast<unsigned long long>(seed),
              processor_ms() / static_cast<double>(count), progress.most_ms, progress.slowest);
  std::printf("%-11s", "altered");
  for (const char* name : kStatusNames) std::printf("%12s", name);
  std::size_t all[kStatuses] = {};
  for (int kind = 0; kind < kKinds; ++kind) {
    std::printf("\n%-11s", rsquant::fuzz::name_of(static_cast<Kind>(kind)));
    for (int status = 0; status < kStatuses; ++status) {
      std::printf("%12zu", progress.outcomes[kind][status]);
      all[status] += progress.outcomes[kind][status];
    }
  }
  std::printf("\n%-11s", "all");
  for (const std::size_t number : all) std::printf("%12zu", number);
  std::printf("\n");
}

int fuzz(int argc, char** argv) {
  // Kernels that were measured here are no matter, and reading them takes time.
  setenv("RSQUANT_CACHE", "/nonexistent", 1);
  const Originals originals = read_originals(argv[1]);
  const std::size_t count = std::strtoull(argv[2], nullptr, 10);
  const std::size_t first = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0;
  const std::uint64_t seed = argc > 4 ? std::strtoull(argv[4], nullptr, 10) : 0;
  void* shared =
      mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) throw std::runtime_error("no memory");
  Progress& progress = *new (shared) Progress{first, {}, first, 0.0};
  int failures = 0;
  while (const int status = run_apart(originals, seed, first + count, progress)) {
    if (progress.number >= first + count) {
      std::fprintf(stderr, "the process ended with status %d behind the last file\n", status);
      return 1;
    }
    const auto kept = (std::filesystem::path(argv[1]) / "../failed").lexically_normal();
    keep(kept, originals, seed, progress.number++, status);
    if (++failures == kMostFailures) break;
  }
  report(progress, first, progress.number - first, seed);
  return failures == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: rsq-fuzz FOLDER COUNT [FIRST [SEED]]\n"), 2;
  try {
    return fuzz(argc, argv);
  } catch (const rsquant::packed::JsonError& error) {
    std::fprintf(stderr, "rsq-fuzz: %s\n", error.text.c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rsq-fuzz: %s\n", error.what());
  }
  return 2;
}
