// The watchdog: a thread that ends a process which makes no progress, so that a job with a dead,
// stopped or looping rank ends instead of hanging (Open MPI and NCCL do not notice).
//
// A process has one, from before MPI starts until MPI is finalised: `guarded_main` makes it, and
// communicators tell it of their collectives. docs/failures.md shows its reports.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "comm/collective_call.hpp"

namespace syncbn {

/// What may not take longer than the limit.
enum class Watched {
  kWaits,      ///< a wait for other ranks; what a rank computes may take as long as it likes
  kEverything  ///< the time between two signs of progress
};

/// While it lives: if there was no progress (a beat, the begin or the end of a wait) for the limit,
/// it writes one line to stderr, stays for a second in which the other ranks write theirs, and
/// calls _exit(124). mpirun then ends the job. A limit ≤ 0: never.
///
/// It also ends the process on SIGTERM, which `install_stop_signals` (comm/stop.hpp) only notes,
/// unless a HeedsStop lives and there was progress within half of the limit. Without progress for
/// so long it also says where: a rank that mpirun ends when another reached its limit is still
/// heard.
///
/// Never calls MPI. Its calls are for one thread, and wait-free but for set_limit and set_name.
class Watchdog {
 public:
  /// `who` begins its lines: "rank 1/2 host".
  Watchdog(std::string who, double limit_s, Watched watched = Watched::kEverything);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// From now on; counts as progress.
  void set_limit(double limit_s, Watched watched);
  void set_name(std::string who);

  /// Progress was made: now at `phase` (a string literal) of `step` (-1: it has no steps).
  void beat(const char* phase, int64_t step = -1) noexcept;

  /// From here to `leave` this process waits for other ranks in `call`, number `number` of a
  /// communicator of `ranks` ranks.
  void enter(const CollectiveCall& call, uint64_t number, int ranks) noexcept;
  void leave() noexcept;

  /// While it lives, this process waits for other ranks in `what` (a string literal), which is no
  /// collective of a communicator: "the device".
  class Waiting {
   public:
    Waiting(Watchdog* watchdog, const char* what) noexcept;  ///< null: does nothing
    ~Waiting();
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;

   private:
    Watchdog* watchdog_;
  };

  /// While it lives, this process counts as alive: it waits for others, whose own watchdogs watch
  /// them.
  class Pause {
   public:
    explicit Pause(Watchdog& watchdog) noexcept : watchdog_(watchdog) { watchdog_.paused_ = true; }
    ~Pause();
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;

   private:
    Watchdog& watchdog_;
  };

  /// While it lives, this process asks `stop_requested` at least once in each step, so that a
  /// SIGTERM that comes now need not end it, nor later while it leaves in order.
  class HeedsStop {
   public:
    explicit HeedsStop(Watchdog& watchdog) noexcept : watchdog_(watchdog) {
      watchdog_.heeds_stop_ = true;
    }
    ~HeedsStop();
    HeedsStop(const HeedsStop&) = delete;
    HeedsStop& operator=(const HeedsStop&) = delete;

   private:
    Watchdog& watchdog_;
  };

 private:
  void watch();
  bool counts() const;
  void heed_sigterm(std::chrono::duration<double> silent, std::chrono::duration<double> still);
  void end_if_over(std::chrono::duration<double> silent);
  std::string where() const;
  void say(const std::string& what) const;

  std::string who_;  // guarded by mutex_, as are the next four
  double limit_s_;
  Watched watched_;
  bool ends_ = false, told_sigterm_ = false;
  std::atomic<const char*> phase_{"start"};
  std::atomic<int64_t> step_{-1};
  std::atomic<uint64_t> beats_{0};
  std::atomic<bool> paused_{false}, heeds_stop_{false}, heeded_{false};
  // These hold what is waited for (null while computing) and the last collective. The watching
  // thread reads them when nothing has moved for long, so that they belong together.
  std::atomic<const char*> waits_for_{nullptr};
  std::atomic<uint64_t> number_{0};
  std::atomic<int> ranks_{0};
  std::atomic<CallKind> kind_{};
  std::atomic<const char*> what_{""};
  std::atomic<int> layer_{-1};
  std::atomic<int64_t> elements_{0};
  std::atomic<at::ScalarType> dtype_{at::ScalarType::Undefined};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::thread thread_;
};

/// Seconds that a program of syncbn may take until its options are known: SYNCBN_START_TIMEOUT,
/// or 120. Throws UsageError if it is no number ≥ 0.
double start_limit_s();

/// Seconds that a user's program may wait in one collective: SYNCBN_TIMEOUT, or `otherwise`.
double wait_limit_s(double otherwise);

}  // namespace syncbn
