// A packed network, ready to run: rsquant/runtime/cpu/session.py.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "bind.h"
#include "choice.h"
#include "variants.h"

namespace rsquant::packed {

struct Options {
  int threads;
  bool low_memory, tune, interpolate;
  int keep_sizes;
  std::string isa, kernel;
};

// The network of one width and pair of bits, at its sizes.
class Setting {
 public:
  Setting(const std::string& path, std::shared_ptr<const Packed> packed, const Isa& isa,
          const Options& options, std::shared_ptr<Workspace> workspace);
  // Made where it is missing. Not from two threads at once.
  std::shared_ptr<BoundSize> at(int height, int width);
  // Chooses kernels by their times; checksum: of the file.
  void tune(std::uint32_t checksum);

 private:
  std::shared_ptr<BoundSize> bind(int height, int width);
  Folded folded(int height, int width) const;

  using Size = std::pair<int, int>;
  std::string path_;
  std::shared_ptr<const Packed> packed_;
  const Isa& isa_;
  Options options_;
  std::shared_ptr<Workspace> workspace_;
  KernelChoice choice_;
  PreparedWeights weights_;
  std::map<Size, std::shared_ptr<BoundSize>> bound_;
  std::list<Size> recent_;  // sizes that are not packed, the one used last first
};

class Session {
 public:
  Session(const std::string& path, Container container, Options options);

  // logits: (count, classes), of a network that gives one prediction per image.
  void run(const std::uint8_t* images, int count, int height, int width, float* logits);
  // Calls `with` for each image: its logits (classes, *map), and their height and width.
  using WithMap = std::function<void(const float* logits, Pair map)>;
  void run_maps(const std::uint8_t* images, int count, int height, int width, const WithMap& with);
  // Height and width of the logits of images of a size.
  Pair map_size(int height, int width);
  void prepare(int height, int width);
  void use(std::size_t setting);

  const Network& network() const { return file_.costliest().network; }
  bool gives_maps() const { return file_.costliest().gives_maps(); }
  const std::vector<Variant>& settings() const { return file_.variants(); }
  const char* isa() const { return isa_.name; }
  int threads() const { return options_.threads; }

 private:
  Session(const std::string& path, std::uint32_t checksum, PackedFile file, Options options);
  Setting& setting(std::size_t number);
  std::shared_ptr<BoundSize> at(int height, int width);

  std::string path_;
  Options options_;
  const Isa& isa_;
  const PackedFile file_;
  std::shared_ptr<Workspace> workspace_;
  std::mutex mutex_;                                // of what follows
  std::vector<std::unique_ptr<Setting>> settings_;  // those that were used
  std::size_t used_ = 0;
};

}  // namespace rsquant::packed
