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
// at a time. Threads do not survive a fork(): in the child all tasks run on the calling thread.
//
// A call ends when its tasks are done, not when all workers have noticed it: on a busy machine one
// that the system does not run would hold it up for milliseconds. So a worker may come late, even
// into the next call. It takes a task by changing `left`, which holds the number of the call: what
// it takes belongs to the call it sees, and that call waits for it.
//
// A thread takes a part of the tasks that are left, half of its share, until they come one by one:
// each taking moves a cache line from processor to processor.
//
// Every other thread takes tasks from the end. So of two threads each has a part of a map for
// itself, and mostly finds what it wrote in the step before in its own caches; where processors
// share none, that counts.
class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  static constexpr int kTaskBits = 22;
  static constexpr int kMostTasks = (1 << kTaskBits) - 1;  // more are done by the caller alone

  int threads() const { return static_cast<int>(shared_->workers.size()) + 1; }

  // work(task, thread), thread in 0 .. threads() - 1. Returns when all tasks are done.
  template <class Work>
  void run(int count, const Work& work) {
    if (shared_->workers.empty() || count <= 1 || count > kMostTasks || forked()) {
      for (int task = 0; task < count; ++task) work(task, 0);
      return;
    }
    const auto call = [](const void* of, int task, int thread) {
      (*static_cast<const Work*>(of))(task, thread);
    };
    share(count, &work, call);
  }

  // The same, and begin(thread) before the first task of each thread that gets one.
  template <class Begin, class Work>
  void run(int count, const Begin& begin, const Work& work) {
    const std::uint64_t call = ++calls_;
    run(count, [&](int task, int thread) {
      std::uint64_t& last = begun_[static_cast<std::size_t>(thread)].call;
      if (last != call) begin(thread);
      last = call;
      work(task, thread);
    });
  }

 private:
  // The last call that a thread has begun, in a line of its own.
  struct alignas(64) Begun {
    std::uint64_t call = 0;
  };

  typedef void (*Call)(const void* work, int task, int thread);

  struct Shared {
    std::vector<std::thread> workers;
    // Of the call that is running; written before `left`, read only by who has taken a task.
    std::atomic<const void*> work{nullptr};
    std::atomic<Call> call{nullptr};
    // Of the tasks that nobody has taken: number of the call, the first of them, how many.
    std::atomic<std::uint64_t> left{0};
    std::atomic<int> done{0};  // tasks that are done
    std::atomic<bool> stop{false};
    std::atomic<int> asleep{0};
    std::mutex mutex;
    std::condition_variable wake;
  };

  // Whether this process is a child of the one that made the pool, without its threads.
  bool forked() const;
  void share(int count, const void* work, Call call);
  static void serve(Shared& shared, int thread);
  static void take(Shared& shared, int thread);

  // Never freed in a child: a condition that threads wait on, though they are gone, cannot end.
  Shared* const shared_;
  const int forks_;  // of this process's line until the pool was made
  std::vector<Begun> begun_;
  std::uint64_t calls_ = 0;  // with a beginning
};

}  // namespace rsquant
