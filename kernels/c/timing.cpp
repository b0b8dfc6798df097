#include "timing.h"

#include <time.h>

#include <algorithm>
#include <limits>

namespace rsquant::packed {
namespace {

constexpr int kRounds = 10;        // a run of each kernel in each; the fastest counts
constexpr double kHopeless = 1.5;  // times the fastest, after two rounds: not timed again
constexpr std::size_t kCaches = std::size_t{48} << 20;  // push everything else out of the caches

double seconds_of(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// What the times of a program's kernels are measured with.
class Timer {
 public:
  explicit Timer(const Folded& folded)
      : image_(std::size_t{3} * folded.values[0].height * folded.values[0].width),
        logits_(static_cast<std::size_t>(folded.values.back().channels) *
                folded.values.back().height * folded.values.back().width),
        other_(kCaches) {}

  // Seconds of each step, the image's first, for two images of zeros: one whose weights come from
  // memory, as where other work is done between two images, and one behind it, whose weights are
  // in the caches.
  std::vector<double> run(BoundSize& bound) {
    for (std::uint8_t& byte : other_) ++byte;
    std::vector<double> seconds = once(bound), near = once(bound);
    for (std::size_t i = 0; i < seconds.size(); ++i) seconds[i] += near[i];
    return seconds;
  }

 private:
  std::vector<double> once(BoundSize& bound) {
    std::vector<double> seconds(bound.program.step_count());
    bound.program.run(image_.data(), 1, bound.result, logits_.data(), seconds.data());
    return seconds;
  }

  std::vector<std::uint8_t> image_;
  std::vector<float> logits_;
  std::vector<std::uint8_t> other_;
};

using Times = std::map<const ConvKernel*, double>;

// Whether a kernel may yet turn out to be the fastest of some convolution.
bool is_near(const ConvKernel* kernel, const std::map<std::string, Times>& shortest) {
  for (const auto& [_, times] : shortest) {
    double least = std::numeric_limits<double>::infinity();
    for (const auto& [other, seconds] : times) least = std::min(least, seconds);
    const auto own = times.find(kernel);
    if (own != times.end() && own->second <= kHopeless * least) return true;
  }
  return false;
}

}  // namespace

Budget::Budget(double seconds)
    : processor_(seconds_of(CLOCK_THREAD_CPUTIME_ID) + seconds),
      clock_(seconds_of(CLOCK_MONOTONIC) + 2 * seconds) {}

double Budget::left() const {
  return std::min(processor_ - seconds_of(CLOCK_THREAD_CPUTIME_ID),
                  clock_ - seconds_of(CLOCK_MONOTONIC));
}

std::map<std::string, std::string> fastest_kernels(
    const Folded& folded, const std::vector<Unknown>& unknown, const Kernels& kernels,
    const std::function<std::shared_ptr<BoundSize>(const Kernels&)>& bound, double seconds) {
  const Budget budget(seconds);
  Timer timer(folded);
  // The kernel of a convolution, where one is used wherever it can be (null: the defaults).
  const auto used = [](const Unknown& of, const ConvKernel* wanted) {
    const auto found = std::find(of.eligible.begin(), of.eligible.end(), wanted);
    return found == of.eligible.end() ? of.eligible[0] : wanted;
  };
  const auto with = [&](const ConvKernel* wanted) {
    Kernels chosen = kernels;
    for (const Unknown& of : unknown) chosen[of.number] = used(of, wanted);
    return bound(chosen);
  };
  std::map<std::string, Times> shortest;
  const auto note = [&](const ConvKernel* wanted, const std::vector<double>& times) {
    for (const Unknown& of : unknown) {
      const double time = times[folded.convolutions[of.number].step + 1];
      const auto [found, added] = shortest[of.key].emplace(used(of, wanted), time);
      if (!added) found->second = std::min(found->second, time);
    }
  };
  // The first run says which convolutions take the time; those kernels come first that the largest
  // share of it can use.
  const std::vector<double> first = timer.run(*with(nullptr));
  note(nullptr, first);
  std::vector<std::pair<double, const ConvKernel*>> names;
  for (const Unknown& of : unknown) {
    for (const ConvKernel* kernel : of.eligible) {
      auto found = std::find_if(names.begin(), names.end(),
                                [&](const auto& name) { return name.second == kernel; });
      if (found == names.end()) found = names.insert(names.end(), {0.0, kernel});
      found->first += first[folded.convolutions[of.number].step + 1];
    }
  }
  std::stable_sort(names.begin(), names.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  double all = 0.0;
  for (const double time : first) all += time;
  std::map<const ConvKernel*, double> last;
  std::map<const ConvKernel*, std::shared_ptr<BoundSize>> programs;
  // In turn, so that what else the machine does falls on all alike.
  for (int round = 0; round < kRounds; ++round) {
    for (const auto& [share, kernel] : names) {
      if (last.emplace(kernel, all).first->second > budget.left()) continue;
      std::shared_ptr<BoundSize>& program = programs[kernel];
      if (!program) program = with(kernel);
      const std::vector<double> times = timer.run(*program);
      last[kernel] = 0.0;
      for (const double time : times) last[kernel] += time;
      note(kernel, times);
    }
    if (round == 1) {
      std::erase_if(names, [&](const auto& name) { return !is_near(name.second, shortest); });
    }
  }
  std::map<std::string, std::string> fastest;
  for (const auto& [key, times] : shortest) {
    if (times.size() < 2) continue;
    const auto least =
        std::min_element(times.begin(), times.end(),
                         [](const auto& a, const auto& b) { return a.second < b.second; });
    fastest.emplace(key, least->first->name);
  }
  return fastest;
}

}  // namespace rsquant::packed
