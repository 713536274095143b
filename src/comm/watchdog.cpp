#include "comm/watchdog.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <utility>

#include "base/clock.hpp"
#include "base/error.hpp"
#include "comm/stop.hpp"

namespace syncbn {
namespace {

using Seconds = std::chrono::duration<double>;

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr Seconds kMostBetweenLooks(0.25);
constexpr Seconds kStill(1);     // much longer than a busy machine takes to give a thread its turn
constexpr Seconds kRecently(5);  // from being continued to being told to end
constexpr Seconds kForOtherRanks(1);  // mpirun kills all soon after the first has gone
const char kCollective[] = "a collective";

double seconds_of(const char* variable, double otherwise) {
  const char* text = std::getenv(variable);
  if (text == nullptr) return otherwise;
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  if (end != text && *end == '\0' && seconds >= 0) return seconds;
  throw UsageError(concat(variable, " is '", text, "', expected seconds (0: no limit)."));
}

}  // namespace

Watchdog::Watchdog(std::string who, double limit_s, Watched watched)
    : who_(std::move(who)), limit_s_(limit_s), watched_(watched), thread_([this] { watch(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ends_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Watchdog::set_limit(double limit_s, Watched watched) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    limit_s_ = limit_s;
    watched_ = watched;
  }
  beats_.fetch_add(1, kRelaxed);
  wake_.notify_one();
}

void Watchdog::set_name(std::string who) {
  const std::lock_guard<std::mutex> lock(mutex_);
  who_ = std::move(who);
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
  waits_for_.store(kCollective, kRelaxed);
  beats_.fetch_add(1, kRelaxed);
}

void Watchdog::leave() noexcept {
  waits_for_.store(nullptr, kRelaxed);
  beats_.fetch_add(1, kRelaxed);
}

Watchdog::Waiting::Waiting(Watchdog* watchdog, const char* what) noexcept : watchdog_(watchdog) {
  if (watchdog_ == nullptr) return;
  watchdog_->waits_for_.store(what, kRelaxed);
  watchdog_->beats_.fetch_add(1, kRelaxed);
}

Watchdog::Waiting::~Waiting() {
  if (watchdog_ != nullptr) watchdog_->leave();
}

Watchdog::Pause::~Pause() {
  watchdog_.beats_.fetch_add(1, kRelaxed);
  watchdog_.paused_ = false;
}

Watchdog::HeedsStop::~HeedsStop() {
  if (termination_requested()) watchdog_.heeded_ = true;
  watchdog_.heeds_stop_ = false;
}

std::string Watchdog::where() const {
  const int64_t step = step_;
  const std::string phase =
      concat("'", phase_.load(), "'", step < 0 ? "" : concat(" of step ", step));
  std::string last;
  if (const uint64_t number = number_; number > 0) {
    const CollectiveCall call{kind_, {what_, layer_}, elements_, dtype_};
    last = concat("collective ", number, " of ", ranks_.load(), " ranks (", describe(call), ")");
  }
  const char* waits_for = waits_for_;
  if (waits_for == kCollective) return concat("waiting in ", last, " in ", phase);
  return concat(waits_for == nullptr ? "computing" : concat("waiting for ", waits_for), " in ",
                phase, last.empty() ? "" : ", after " + last);
}

void Watchdog::say(const std::string& what) const {
  const std::string line = concat(who_, ": ", what, ": ", where(), "\n");
  const auto written = write(STDERR_FILENO, line.data(), line.size());
  static_cast<void>(written);  // nothing is left to be done about it
}

bool Watchdog::counts() const {
  return !paused_ && (watched_ == Watched::kEverything || waits_for_ != nullptr);
}

void Watchdog::heed_sigterm(Seconds silent, Seconds still) {
  if (!termination_requested()) return;
  const auto long_enough = [&](Seconds time) {
    return limit_s_ > 0 && 2 * time.count() >= limit_s_;
  };
  if (!told_sigterm_ && long_enough(still)) {
    say(concat("got SIGTERM when it had stood still for ", std::lround(still.count()),
               " s, as a stopped process does"));
    told_sigterm_ = true;
  } else if (!told_sigterm_ && long_enough(silent) && !paused_) {
    say(concat("got SIGTERM after ", std::lround(silent.count()), " s without progress"));
    told_sigterm_ = true;
  }
  const bool hangs = counts() && long_enough(silent);
  if ((heeds_stop_ || heeded_) && !hangs) return;
  std::signal(SIGTERM, SIG_DFL);
  std::raise(SIGTERM);
}

void Watchdog::end_if_over(Seconds silent) {
  if (limit_s_ <= 0 || silent.count() < limit_s_ || !counts()) return;
  say(concat("no progress for ", limit_s_, " s"));
  std::this_thread::sleep_for(kForOtherRanks);
  // _exit, not exit or abort: destructors of a stuck process would wait for what it waits for.
  _exit(static_cast<int>(ExitCode::kWatchdog));
}

void Watchdog::watch() {
  uint64_t seen = beats_.load(kRelaxed);
  auto since = Clock::now(), looked = since, woke = since;
  Seconds stood_still(0);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!ends_) {
    const Seconds pause =
        limit_s_ > 0 ? std::min(Seconds(limit_s_ / 8), kMostBetweenLooks) : kMostBetweenLooks;
    wake_.wait_for(lock, pause);
    const auto now = Clock::now();
    const uint64_t beats = beats_.load(kRelaxed);
    // Time in which this thread stood still as well counts against other ranks only. A process that
    // was stopped is first continued, then ended, and may have moved on meanwhile.
    if (now - looked > kStill) {
      stood_still = now - looked;
      since += now - looked;
      woke = now;
    }
    looked = now;
    if (beats != seen) since = now;
    seen = beats;
    heed_sigterm(now - since, now - woke < kRecently ? stood_still : Seconds(0));
    end_if_over(now - since);
  }
}

double start_limit_s() {
  constexpr double kStartLimitS = 120;
  return seconds_of("SYNCBN_START_TIMEOUT", kStartLimitS);
}

double wait_limit_s(double otherwise) {
  return seconds_of("SYNCBN_TIMEOUT", otherwise);
}

}  // namespace syncbn
