// A few threads that stay, for work so short that starting threads would cost more than it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace rsquant {

// Runs tasks 0 .. count - 1 on the caller and `threads - 1` others. Workers wait for the next call
// spinning for some microseconds, as a network's steps follow each other, then asleep. One caller
// at a time. The threads do not survive a fork(): make the pool in the process that uses it.
class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // work(task, thread), thread in 0 .. threads() - 1. Returns when all tasks are done.
  template <class Work>
  void run(int count, const Work& work) {
    if (workers_.empty() || count <= 1) {
      for (int task = 0; task < count; ++task) work(task, 0);
      return;
    }
    const auto call = [](const void* of, int task, int thread) {
      (*static_cast<const Work*>(of))(task, thread);
    };
    share(count, &work, call);
  }

 private:
  typedef void (*Call)(const void* work, int task, int thread);

  void share(int count, const void* work, Call call);
  void serve(int thread);
  void take(int thread);

  std::vector<std::thread> workers_;
  const void* work_ = nullptr;
  Call call_ = nullptr;
  int count_ = 0;
  std::atomic<int> next_{0};
  std::atomic<int> busy_{0};
  std::atomic<unsigned> generation_{0};
  std::atomic<bool> stop_{false};
  std::atomic<int> asleep_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace rsquant
