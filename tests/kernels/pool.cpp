// Threads that share tasks: each task is done exactly once, before its call ends, whatever the
// numbers of threads and tasks. See test_pool.py.

#include "pool.h"

#include <cstdio>
#include <cstdlib>

namespace {

// Calls of many sizes, one behind the other, so that workers come late into some of them.
bool each_once(int threads, int calls) {
  rsquant::Pool pool(threads);
  std::vector<int> done(2000);
  for (int call = 0; call < calls; ++call) {
    const int count = call * 37 % 7 == 0 ? call % 2000 : call % (2 * threads + 2);
    for (int& one : done) one = 0;
    pool.run(count, [&](int task, int thread) {
      if (task < 0 || task >= count || thread < 0 || thread >= threads) std::abort();
      ++done[static_cast<std::size_t>(task)];  // not atomic: of one thread alone
    });
    for (int task = 0; task < static_cast<int>(done.size()); ++task) {
      if (done[static_cast<std::size_t>(task)] == (task < count ? 1 : 0)) continue;
      std::printf("%d threads, call %d of %d tasks: task %d was done %d times\n", threads, call,
                  count, task, done[static_cast<std::size_t>(task)]);
      return false;
    }
  }
  return true;
}

// What a thread does before its first task of a call: once, and not without a task.
bool each_begun(int threads, int calls) {
  rsquant::Pool pool(threads);
  struct alignas(64) Own {
    int begun, tasks;
  };
  std::vector<Own> of(static_cast<std::size_t>(threads));
  for (int call = 0; call < calls; ++call) {
    for (Own& own : of) own = {};
    pool.run(
        call % (4 * threads), [&](int thread) { ++of[static_cast<std::size_t>(thread)].begun; },
        [&](int, int thread) {
          Own& own = of[static_cast<std::size_t>(thread)];
          if (own.begun != 1) std::abort();
          ++own.tasks;
        });
    for (const Own& own : of) {
      if (own.begun == (own.tasks > 0 ? 1 : 0)) continue;
      std::printf("%d threads, call %d: begun %d times for %d tasks\n", threads, call, own.begun,
                  own.tasks);
      return false;
    }
  }
  return true;
}

// More than a call can share.
bool too_many() {
  rsquant::Pool pool(3);
  long sum = 0;
  bool own = true;
  pool.run(rsquant::Pool::kMostTasks + 5, [&](int task, int thread) {
    own = own && thread == 0;
    sum += task;
  });
  const long n = rsquant::Pool::kMostTasks + 5;
  if (own && sum == n * (n - 1) / 2) return true;
  std::printf("too many tasks: sum %ld, by the caller alone: %d\n", sum, own);
  return false;
}

}  // namespace

int main() {
  for (const int threads : {1, 2, 3, 5}) {
    if (!each_once(threads, 3000) || !each_begun(threads, 3000)) return 1;
  }
  return too_many() ? 0 : 1;
}
