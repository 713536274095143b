// Internal to comm/*.cpp and its tests: waiting for what cannot be waited for without a deadline.
#pragma once

#include <chrono>
#include <string>
#include <thread>

#include "base/error.hpp"

namespace syncbn {

/// Asks `done` until it says true. Throws Error(kWatchdog), naming `what`, when it has not within
/// `limit_s` seconds; what `done` throws passes through. It is asked at least once.
template <class Done>
void poll_until(Done&& done, double limit_s, const std::string& what) {
  using Clock = std::chrono::steady_clock;
  constexpr auto kPause = std::chrono::microseconds(50);
  const auto start = Clock::now();
  while (!done()) {
    if (std::chrono::duration<double>(Clock::now() - start).count() >= limit_s) {
      throw Error(concat(what, " was not done within ", limit_s,
                         " s: another rank has failed or never got here."),
                  ExitCode::kWatchdog);
    }
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace syncbn
