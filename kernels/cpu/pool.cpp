#include "pool.h"

#include <pthread.h>

#include <chrono>
#include <system_error>

namespace rsquant {
namespace {

// How long a worker spins before it sleeps. Waking a sleeping thread takes about 50 us on Linux,
// as long as a small layer; between two calls of a network it should sleep.
constexpr std::chrono::microseconds kSpin(200);

// Of `left`: how many tasks nobody has taken, the first of them, the number of the call.
constexpr std::uint64_t kMask = Pool::kMostTasks;
constexpr std::uint64_t kFirst = std::uint64_t{1} << Pool::kTaskBits;
constexpr std::uint64_t kNumber = std::uint64_t{1} << 2 * Pool::kTaskBits;

inline bool any(std::uint64_t left) { return (left & kMask) > 0; }

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
  begun_.resize(shared_->workers.size() + 1);
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
  s.done.store(0, std::memory_order_relaxed);
  const std::uint64_t number = s.left.load(std::memory_order_relaxed) / kNumber + 1;
  s.left.store(number * kNumber | static_cast<std::uint64_t>(count));
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
  const bool back = thread % 2 == 1;
  const std::uint64_t shares = 2 * (s.workers.size() + 1);
  std::uint64_t left = s.left.load();
  while (any(left)) {
    const std::uint64_t first = left / kFirst & kMask, all = left & kMask;
    const std::uint64_t some = all < shares ? 1 : all / shares;
    if (!s.left.compare_exchange_weak(left, left - some + (back ? 0 : some * kFirst))) continue;
    const Call call = s.call.load(std::memory_order_relaxed);
    const void* work = s.work.load(std::memory_order_relaxed);
    const int begin = static_cast<int>(back ? first + all - some : first);
    for (int i = 0; i < static_cast<int>(some); ++i) {
      call(work, back ? begin + static_cast<int>(some) - 1 - i : begin + i, thread);
    }
    s.done.fetch_add(static_cast<int>(some), std::memory_order_release);
    left = s.left.load();
  }
}

void Pool::serve(Shared& s, int thread) {
  for (;;) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    while (!any(s.left.load(std::memory_order_acquire))) {
      for (int i = 0; i < 64 && !any(s.left.load(std::memory_order_relaxed)); ++i) {
        pause();
      }
      if (s.stop) return;
      if (std::chrono::steady_clock::now() < until) continue;
      std::unique_lock<std::mutex> lock(s.mutex);
      s.asleep.fetch_add(1);
      s.wake.wait(lock, [&] { return s.stop || any(s.left.load()); });
      s.asleep.fetch_sub(1);
    }
    if (s.stop) return;
    take(s, thread);
  }
}

}  // namespace rsquant
