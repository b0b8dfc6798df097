// A packed network, ready to run: rsquant/runtime/cpu/session.py.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "bind.h"
#include "choice.h"

namespace rsquant::packed {

struct Options {
  int threads;
  bool low_memory, tune, interpolate;
  int keep_sizes;
  std::string isa, kernel;
};

// The network of one setting of bits, at its sizes.
class Setting {
 public:
  Setting(const std::string& path, const Packed& packed, const Isa& isa, const Options& options,
          std::shared_ptr<Workspace> workspace);
  // Made where it is missing. Not from two threads at once.
  std::shared_ptr<BoundSize> at(int height, int width);
  // Chooses kernels by their times; checksum: of the file.
  void tune(std::uint32_t checksum);

 private:
  std::shared_ptr<BoundSize> bind(int height, int width);
  Folded folded(int height, int width) const;

  using Size = std::pair<int, int>;
  std::string path_;
  const Packed& packed_;
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

  void run(const std::uint8_t* images, int count, int height, int width, float* logits);
  void prepare(int height, int width);
  void use(std::size_t setting);

  const Network& network(std::size_t setting = 0) const { return packed_[setting].network; }
  std::size_t settings() const { return packed_.size(); }
  const char* isa() const { return isa_.name; }
  int threads() const { return options_.threads; }

 private:
  Session(const std::string& path, std::uint32_t checksum, std::vector<Packed> packed,
          Options options);
  Setting& setting(std::size_t number);
  std::shared_ptr<BoundSize> at(int height, int width);

  std::string path_;
  Options options_;
  const Isa& isa_;
  std::vector<Packed> packed_;  // by setting; stays as it is
  std::shared_ptr<Workspace> workspace_;
  std::mutex mutex_;  // of what follows
  std::vector<std::unique_ptr<Setting>> settings_;
  std::size_t used_ = 0;
};

}  // namespace rsquant::packed
