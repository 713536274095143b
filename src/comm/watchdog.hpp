// The watchdog: a thread that ends a process which makes no progress, so that a job with a dead,
// stopped or looping rank ends instead of hanging (Open MPI and NCCL do not notice; see README).
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "comm/collective_call.hpp"

namespace syncbn {

/// While it lives: if `beat` was not called for `limit_s` seconds, writes one line to stderr (who,
/// phase, step, seconds) and calls _exit(124). mpirun then ends the other ranks. Never calls MPI.
/// limit_s ≤ 0: off.
class Watchdog {
 public:
  Watchdog(std::string who, double limit_s);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// Progress was made: now at `phase` (a string literal) of `step`. Wait-free.
  void beat(const char* phase, int64_t step) noexcept;

  /// From here to `leave` this process waits for other ranks in `call`, number `number` of a
  /// communicator of `ranks` ranks. Both are progress, wait-free, and cost nanoseconds. One thread.
  void enter(const CollectiveCall& call, uint64_t number, int ranks) noexcept;
  void leave() noexcept;

  /// While it lives, this process counts as alive: it waits for others, whose own watchdogs watch
  /// them.
  class Pause {
   public:
    explicit Pause(Watchdog& watchdog) noexcept : watchdog_(watchdog) { watchdog_.paused_ = true; }
    ~Pause() { watchdog_.paused_ = false; }
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;

   private:
    Watchdog& watchdog_;
  };

 private:
  void watch();
  std::string where() const;

  std::string who_;
  double limit_s_;
  std::atomic<const char*> phase_{"start"};
  std::atomic<int64_t> step_{0};
  std::atomic<uint64_t> beats_{0};
  std::atomic<bool> paused_{false};
  // The last collective; what the watching thread reads of it is whole, since nothing moves then.
  std::atomic<bool> inside_{false};
  std::atomic<uint64_t> number_{0};
  std::atomic<int> ranks_{0};
  std::atomic<CallKind> kind_{};
  std::atomic<const char*> what_{""};
  std::atomic<int> layer_{-1};
  std::atomic<int64_t> elements_{0};
  std::atomic<at::ScalarType> dtype_{at::ScalarType::Undefined};
  bool stop_ = false;  // guarded by mutex_
  std::mutex mutex_;
  std::condition_variable wake_;
  std::thread thread_;
};

}  // namespace syncbn
