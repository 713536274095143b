// Internal to comm/*.cpp and its tests: whether threads help, found out by trying.
#pragma once

#include <string>
#include <vector>

namespace syncbn {

/// Seconds that one call of typical work takes: a loop of some tenths of a millisecond over the
/// rows of a batch, cut into a part for each thread.
struct ThreadSpeed {
  int threads = 1;
  double on_one_s = 1, on_all_s = 1;
  double slowdown() const { return on_all_s / on_one_s; }
};

/// Tries that work on one thread and on `threads`, in turn, for some 20 ms (and two calls each, if
/// these take longer), and takes the best of several rounds, so that what strikes a round or two
/// does not count. Work that is cut into parts waits for the slowest of them: where threads share a
/// core, or compete with other programs, it takes longer than on one thread, often many times.
/// Leaves `threads` set. With one thread there is nothing to try.
ThreadSpeed try_threads(int threads);

/// One warning about the rank that its threads slow down most, if any does so threefold. `speeds`
/// and `hosts` are of every rank.
std::vector<std::string> warn_slow_threads(const std::vector<ThreadSpeed>& speeds,
                                           const std::vector<std::string>& hosts);

}  // namespace syncbn
