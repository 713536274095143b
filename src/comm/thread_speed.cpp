#include "comm/thread_speed.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "base/clock.hpp"
#include "base/error.hpp"

namespace syncbn {
namespace {

constexpr int kRounds = 5;
constexpr double kRound_s = 1e-3;  // of each number of threads in a round, and one call at least
constexpr double kAll_s = 20e-3;   // after which no round begins
constexpr double kSlowdown = 3;    // from which a warning is due: threads may cost, but not so much
// The work: passes over the rows of a batch of images, on one thread some tenths of a millisecond.
constexpr int64_t kRows = 64, kColumns = 784, kPasses = 16;

// Calls of the work in a round, of which the mean counts.
template <class F>
double seconds_per_call(const F& work) {
  const auto start = Clock::now();
  int calls = 0;
  double seconds = 0;
  do {
    work();
    ++calls;
    seconds = seconds_since(start);
  } while (seconds < kRound_s);
  return seconds / calls;
}

}  // namespace

ThreadSpeed try_threads(int threads) {
  ThreadSpeed speed;
  speed.threads = threads;
  if (threads == 1) return speed;
  std::vector<float> rows(kRows * kColumns, 1);
  const auto work = [&] {
    at::parallel_for(0, kRows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t pass = 0; pass < kPasses; ++pass) {
        for (int64_t i = begin * kColumns; i < end * kColumns; ++i) {
          float& value = rows[static_cast<size_t>(i)];
          value = value * 0.5F + 1;
        }
      }
    });
  };
  const auto on = [&](int n) {
    at::set_num_threads(n);
    return seconds_per_call(work);
  };
  on(1);
  on(threads);  // makes the threads
  speed.on_one_s = speed.on_all_s = INFINITY;
  const auto start = Clock::now();
  for (int round = 0; round < kRounds && (round == 0 || seconds_since(start) < kAll_s); ++round) {
    speed.on_one_s = std::min(speed.on_one_s, on(1));
    speed.on_all_s = std::min(speed.on_all_s, on(threads));
  }
  return speed;
}

std::vector<std::string> warn_slow_threads(const std::vector<ThreadSpeed>& speeds,
                                           const std::vector<std::string>& hosts) {
  const auto slowest = std::max_element(
      speeds.begin(), speeds.end(),
      [](const ThreadSpeed& a, const ThreadSpeed& b) { return a.slowdown() < b.slowdown(); });
  if (slowest == speeds.end() || slowest->slowdown() < kSlowdown) return {};
  const auto rank = static_cast<size_t>(slowest - speeds.begin());
  return {
      concat("threads slow rank ", rank, " on ", hosts[rank], " down: a typical loop takes ",
             std::lround(slowest->slowdown()), " times as long on its ", slowest->threads,
             " threads as on one, as measured just now, for they share cores among themselves or "
             "with other programs; set --run.threads 1, or give each rank free cores of its own "
             "(mpirun --bind-to none, fewer ranks).")};
}

}  // namespace syncbn
