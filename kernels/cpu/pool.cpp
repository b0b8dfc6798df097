#include "pool.h"

#include <pthread.h>

#include <chrono>
#include <system_error>

namespace rsquant {
namespace {

// How long a worker spins before it sleeps. Waking a sleeping thread takes about 50 us on Linux,
// as long as a small layer; between two calls of a network it should sleep.
constexpr std::chrono::microseconds kSpin(200);

constexpr std::uint64_t kTasks = 0xffffffff;  // the lower half of `left`

// How many fork() lie between this process and the one that loaded the library.
std::atomic<int> forks{0};
[[maybe_unused]] const int counted =
    pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Pool::Pool(int threads) : shared_(new Shared), forks_(forks.load(std::memory_order_relaxed)) {
  for (int thread = 1; thread < threads; ++thread) {
    try {
      shared_->workers.emplace_back([shared = shared_, thread] { serve(*shared, thread); });
    } catch (const std::system_error&) {
      break;  // no more threads to be had
    }
  }
}

Pool::~Pool() {
  if (forked()) return;
  {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    shared_->stop = true;
  }
  shared_->wake.notify_all();
  for (std::thread& worker : shared_->workers) worker.join();
  delete shared_;
}

bool Pool::forked() const { return forks.load(std::memory_order_relaxed) != forks_; }

void Pool::share(int count, const void* work, Call call) {
  Shared& s = *shared_;
  s.work.store(work, std::memory_order_relaxed);
  s.call.store(call, std::memory_order_relaxed);
  s.count.store(count, std::memory_order_relaxed);
  s.done.store(0, std::memory_order_relaxed);
  const std::uint64_t number = (s.left.load(std::memory_order_relaxed) >> 32) + 1;
  s.left.store(number << 32 | static_cast<std::uint64_t>(count));
  if (s.asleep.load() > 0) {
    // Taking the lock waits for a worker that has decided to sleep but does not wait yet.
    {
      std::lock_guard<std::mutex> lock(s.mutex);
    }
    s.wake.notify_all();
  }
  take(s, 0);
  // What others have taken; one of them may be kept from running by another process.
  for (int i = 0; s.done.load(std::memory_order_acquire) < count; ++i) {
    if (i < 10000) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void Pool::take(Shared& s, int thread) {
  std::uint64_t left = s.left.load();
  while ((left & kTasks) > 0) {
    if (!s.left.compare_exchange_weak(left, left - 1)) continue;
    const int task = s.count.load(std::memory_order_relaxed) - static_cast<int>(left & kTasks);
    s.call.load(std::memory_order_relaxed)(s.work.load(std::memory_order_relaxed), task, thread);
    s.done.fetch_add(1, std::memory_order_release);
    left = s.left.load();
  }
}

void Pool::serve(Shared& s, int thread) {
  for (;;) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    while ((s.left.load(std::memory_order_acquire) & kTasks) == 0) {
      for (int i = 0; i < 64 && (s.left.load(std::memory_order_relaxed) & kTasks) == 0; ++i) {
        pause();
      }
      if (s.stop) return;
      if (std::chrono::steady_clock::now() < until) continue;
      std::unique_lock<std::mutex> lock(s.mutex);
      s.asleep.fetch_add(1);
      s.wake.wait(lock, [&] { return s.stop || (s.left.load() & kTasks) > 0; });
      s.asleep.fetch_sub(1);
    }
    if (s.stop) return;
    take(s, thread);
  }
}

}  // namespace rsquant
