#include "pool.h"

#include <chrono>
#include <system_error>

namespace rsquant {
namespace {

// How long a worker spins before it sleeps. Waking a sleeping thread takes about 50 us on Linux,
// as long as a small layer; between two calls of a network it should sleep.
constexpr std::chrono::microseconds kSpin(200);

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
    ++generation_;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::share(int count, const void* work, Call call) {
  work_ = work;
  call_ = call;
  count_ = count;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1);
  if (asleep_.load() > 0) {
    // Taking the lock waits for a worker that has decided to sleep but does not wait yet.
    { std::lock_guard<std::mutex> lock(mutex_); }
    wake_.notify_all();
  }
  take(0);
  // A worker that another process keeps from running is waited for without burning its core.
  for (int i = 0; busy_.load(std::memory_order_acquire) > 0; ++i) {
    if (i < 10000) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void Pool::take(int thread) {
  for (int task = next_.fetch_add(1); task < count_; task = next_.fetch_add(1)) {
    call_(work_, task, thread);
  }
}

void Pool::serve(int thread) {
  unsigned seen = 0;
  for (;;) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    while (generation_.load(std::memory_order_acquire) == seen) {
      for (int i = 0; i < 64 && generation_.load(std::memory_order_relaxed) == seen; ++i) pause();
      if (std::chrono::steady_clock::now() < until) continue;
      std::unique_lock<std::mutex> lock(mutex_);
      asleep_.fetch_add(1);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
      asleep_.fetch_sub(1);
    }
    seen = generation_.load();
    if (stop_) return;
    take(thread);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace rsquant
