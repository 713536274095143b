#include "comm/watchdog.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/clock.hpp"
#include "base/error.hpp"

namespace syncbn {

Watchdog::Watchdog(std::string who, double limit_s) : who_(std::move(who)), limit_s_(limit_s) {
  if (limit_s_ > 0) thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Watchdog::beat(const char* phase, int64_t step) noexcept {
  phase_.store(phase, std::memory_order_relaxed);
  step_.store(step, std::memory_order_relaxed);
  beats_.fetch_add(1, std::memory_order_relaxed);
}

void Watchdog::watch() {
  const std::chrono::duration<double> limit(limit_s_);
  const auto look_again = std::min(limit / 8, std::chrono::duration<double>(1));
  uint64_t seen = beats_.load(std::memory_order_relaxed);
  auto since = Clock::now();
  std::unique_lock<std::mutex> lock(mutex_);
  while (!wake_.wait_for(lock, look_again, [this] { return stop_; })) {
    const uint64_t beats = beats_.load(std::memory_order_relaxed);
    const std::chrono::duration<double> silent = Clock::now() - since;
    if (beats != seen || paused_) {
      seen = beats;
      since = Clock::now();
    } else if (silent >= limit) {
      const std::string line = concat(who_, " no progress for ", limit_s_, " s, in '",
                                      phase_.load(), "' of step ", step_.load(), "\n");
      const auto written = write(STDERR_FILENO, line.data(), line.size());
      static_cast<void>(written);  // nothing is left to be done about it
      // _exit, not exit or abort: destructors of a stuck process would wait for what it waits for.
      _exit(static_cast<int>(ExitCode::kWatchdog));
    }
  }
}

}  // namespace syncbn
