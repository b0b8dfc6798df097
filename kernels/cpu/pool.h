// A few threads that stay, for work so short that starting threads would cost more than it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace rsquant {

// Runs tasks 0 .. count - 1 on the caller and `threads - 1` others. Workers wait for the next call
// spinning for some microseconds, as a network's steps follow each other, then asleep. One caller
// at a time. The threads do not survive a fork(): make the pool in the process that uses it.
//
// A call ends when its tasks are done, not when all workers have noticed it: on a busy machine one
// that the system does not run would hold it up for milliseconds. So a worker may come late, even
// into the next call. It takes a task by counting down `left_`, whose upper half is the number of
// the call: what it takes belongs to the call it sees, and that call waits for it.
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
  // Of the call that is running; written before `left_`, read only by who has taken a task.
  std::atomic<const void*> work_{nullptr};
  std::atomic<Call> call_{nullptr};
  std::atomic<int> count_{0};
  std::atomic<std::uint64_t> left_{0};  // number of the call, tasks that nobody has taken
  std::atomic<int> done_{0};            // tasks that are done
  std::atomic<bool> stop_{false};
  std::atomic<int> asleep_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace rsquant
