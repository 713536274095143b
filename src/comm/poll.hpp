// Internal to comm/*.cpp and its tests: waiting for what cannot be waited for without a deadline.
#pragma once

#include <chrono>
#include <string>
#include <thread>

#include "base/clock.hpp"
#include "base/error.hpp"

namespace syncbn {

/// Asks `done` until it says true. Throws Error(kWatchdog), naming `what`, when it has not within
/// `limit_s` seconds (≤ 0: it may take for ever); what `done` throws passes through. It is asked at
/// least once.
template <class Done>
void poll_until(Done&& done, double limit_s, const std::string& what) {
  constexpr auto kPause = std::chrono::microseconds(50);
  const auto start = Clock::now();
  while (!done()) {
    const double waited = seconds_since(start);
    if (limit_s > 0 && waited >= limit_s) {
      throw Error(concat(what, " was not done within ", limit_s,
                         " s: another rank has failed or never got here."),
                  ExitCode::kWatchdog);
    }
    std::this_thread::sleep_for(kPause);
  }
}

/// The same for a device that works with other ranks through a transport. `ready` is asked before
/// `done` each time: it throws what has failed in the transport, without which `done` could come
/// with a wrong result or never, and says false while a call of it is in progress.
template <class Ready, class Done>
void poll_through(Ready&& ready, Done&& done, double limit_s, const std::string& what) {
  poll_until([&] { return ready() && done(); }, limit_s, what);
}

}  // namespace syncbn
