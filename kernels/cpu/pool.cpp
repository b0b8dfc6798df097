#include "pool.h"

#include <chrono>
#include <system_error>

namespace rsquant {
namespace {

// How long a worker spins before it sleeps. Waking a sleeping thread takes about 50 us on Linux,
// as long as a small layer; between two calls of a network it should sleep.
constexpr std::chrono::microseconds kSpin(200);

constexpr std::uint64_t kTasks = 0xffffffff;  // the lower half of `left_`

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Pool::Pool(int threads) {
  for (int thread = 1; thread < threads; ++thread) {
    try {
      workers_.emplace_back([this, thread] { serve(thread); });
    } catch (const std::system_error&) {
      break;  // no more threads to be had
    }
  }
}

Pool::~Pool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::share(int count, const void* work, Call call) {
  work_.store(work, std::memory_order_relaxed);
  call_.store(call, std::memory_order_relaxed);
  count_.store(count, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  const std::uint64_t number = (left_.load(std::memory_order_relaxed) >> 32) + 1;
  left_.store(number << 32 | static_cast<std::uint64_t>(count));
  if (asleep_.load() > 0) {
    // Taking the lock waits for a worker that has decided to sleep but does not wait yet.
    {
      std::lock_guard<std::mutex> lock(mutex_);
    }
    wake_.notify_all();
  }
  take(0);
  // What others have taken; one of them may be kept from running by another process.
  for (int i = 0; done_.load(std::memory_order_acquire) < count; ++i) {
    if (i < 10000) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void Pool::take(int thread) {
  std::uint64_t left = left_.load();
  while ((left & kTasks) > 0) {
    if (!left_.compare_exchange_weak(left, left - 1)) continue;
    const int task = count_.load(std::memory_order_relaxed) - static_cast<int>(left & kTasks);
    call_.load(std::memory_order_relaxed)(work_.load(std::memory_order_relaxed), task, thread);
    done_.fetch_add(1, std::memory_order_release);
    left = left_.load();
  }
}

void Pool::serve(int thread) {
  for (;;) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    while ((left_.load(std::memory_order_acquire) & kTasks) == 0) {
      for (int i = 0; i < 64 && (left_.load(std::memory_order_relaxed) & kTasks) == 0; ++i) pause();
      if (stop_) return;
      if (std::chrono::steady_clock::now() < until) continue;
      std::unique_lock<std::mutex> lock(mutex_);
      asleep_.fetch_add(1);
      wake_.wait(lock, [&] { return stop_ || (left_.load() & kTasks) > 0; });
      asleep_.fetch_sub(1);
    }
    if (stop_) return;
    take(thread);
  }
}

}  // namespace rsquant
