#include "comm/watchdog.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/clock.hpp"
#include "base/error.hpp"

namespace syncbn {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

}  // namespace

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
  phase_.store(phase, kRelaxed);
  step_.store(step, kRelaxed);
  beats_.fetch_add(1, kRelaxed);
}

void Watchdog::enter(const CollectiveCall& call, uint64_t number, int ranks) noexcept {
  number_.store(number, kRelaxed);
  ranks_.store(ranks, kRelaxed);
  kind_.store(call.kind, kRelaxed);
  what_.store(call.purpose.what, kRelaxed);
  layer_.store(call.purpose.layer, kRelaxed);
  elements_.store(call.elements, kRelaxed);
  dtype_.store(call.dtype, kRelaxed);
  inside_.store(true, kRelaxed);
  beats_.fetch_add(1, kRelaxed);
}

void Watchdog::leave() noexcept {
  inside_.store(false, kRelaxed);
  beats_.fetch_add(1, kRelaxed);
}

std::string Watchdog::where() const {
  const std::string phase = concat("'", phase_.load(), "' of step ", step_.load());
  const uint64_t number = number_.load();
  if (number == 0) return concat("in ", phase);
  const CollectiveCall call{kind_, {what_, layer_}, elements_, dtype_};
  const std::string last =
      concat("collective ", number, " of ", ranks_.load(), " ranks (", describe(call), ")");
  return inside_ ? concat("waiting in ", last, " in ", phase)
                 : concat("computing in ", phase, ", after ", last);
}

void Watchdog::watch() {
  const std::chrono::duration<double> limit(limit_s_);
  const auto look_again = std::min(limit / 8, std::chrono::duration<double>(1));
  uint64_t seen = beats_.load(kRelaxed);
  auto since = Clock::now();
  std::unique_lock<std::mutex> lock(mutex_);
  while (!wake_.wait_for(lock, look_again, [this] { return stop_; })) {
    const uint64_t beats = beats_.load(kRelaxed);
    const std::chrono::duration<double> silent = Clock::now() - since;
    if (beats != seen || paused_) {
      seen = beats;
      since = Clock::now();
    } else if (silent >= limit) {
      const std::string line = concat(who_, " no progress for ", limit_s_, " s, ", where(), "\n");
      const auto written = write(STDERR_FILENO, line.data(), line.size());
      static_cast<void>(written);  // nothing is left to be done about it
      // _exit, not exit or abort: destructors of a stuck process would wait for what it waits for.
      _exit(static_cast<int>(ExitCode::kWatchdog));
    }
  }
}

}  // namespace syncbn
