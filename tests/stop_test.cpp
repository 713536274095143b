// Signals that ask to stop: what one process sees, and a job under mpiexec.
#include "comm/stop.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <optional>

#include "comm/watchdog.hpp"
#include "support/job.hpp"

namespace syncbn {
namespace {

// Each in a process of its own, since a request is for ever.
TEST(Stop, IsNotRequestedUnasked) {
  install_stop_signals();
  EXPECT_FALSE(stop_requested());
}

void expect_heard(int signal) {
  const auto act = [&] {
    install_stop_signals();
    for (int n = 0; n < 3; ++n) std::raise(signal);
    _exit(stop_requested() ? 7 : 1);
  };
  EXPECT_EXIT(act(), testing::ExitedWithCode(7), "");
}

TEST(Stop, ASignalIsHeardHoweverOftenItComes) {
  expect_heard(SIGUSR1);
  expect_heard(SIGTERM);
}

TEST(Stop, OtherSignalsStillEnd) {
  const auto act = [] {
    install_stop_signals();
    std::raise(SIGINT);
    _exit(1);
  };
  EXPECT_EXIT(act(), testing::KilledBySignal(SIGINT), "");
}

// Elsewhere than in a loop that heeds it, as in one that hangs, SIGTERM ends the process.
TEST(Stop, TheWatchdogEndsOnSigtermWhatDoesNotHeedIt) {
  const auto act = [](bool heeds) {
    install_stop_signals();
    Watchdog watchdog("a test", /*limit_s=*/0);
    std::optional<Watchdog::HeedsStop> scope;
    if (heeds) scope.emplace(watchdog);
    std::raise(SIGTERM);
    usleep(1'000'000);
    _exit(stop_requested() ? 7 : 1);
  };
  EXPECT_EXIT(act(false), testing::KilledBySignal(SIGTERM), "^$");
  EXPECT_EXIT(act(true), testing::ExitedWithCode(7), "^$");
}

TEST(Stop, ASignalThatWaitedSinceTheProgramWasLoadedArrives) {
  const auto act = [] {
    sigset_t both;
    sigemptyset(&both);
    for (const int signal : {SIGUSR1, SIGTERM}) sigaddset(&both, signal);
    sigprocmask(SIG_BLOCK, &both, nullptr);  // as apps/early_signals.cpp does
    std::raise(SIGUSR1);
    if (stop_requested()) _exit(1);
    install_stop_signals();
    _exit(stop_requested() && !termination_requested() ? 7 : 2);
  };
  EXPECT_EXIT(act(), testing::ExitedWithCode(7), "");
}

TEST(Stop, AWriteBeyondTheLimitOfFileSizeFails) {
  const auto act = [] {
    install_stop_signals();
    const rlimit limit{10, 10};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(1);
    FILE* file = std::tmpfile();
    const std::string text(100, 'x');
    if (file == nullptr || write(fileno(file), text.data(), text.size()) != 10) _exit(2);
    _exit(write(fileno(file), text.data(), 1) == -1 && errno == EFBIG ? 7 : 3);
  };
  EXPECT_EXIT(act(), testing::ExitedWithCode(7), "");
}

TEST(Stop, AReadIsNotInterrupted) {
  const auto act = [] {
    install_stop_signals();
    int ends[2];
    if (pipe(ends) != 0) _exit(1);
    const pid_t reader = getpid();
    if (fork() == 0) {
      usleep(50'000);
      kill(reader, SIGUSR1);
      usleep(50'000);
      _exit(write(ends[1], "x", 1) == 1 ? 0 : 1);
    }
    char byte = 0;
    _exit(read(ends[0], &byte, 1) == 1 && stop_requested() ? 7 : 2);
  };
  EXPECT_EXIT(act(), testing::ExitedWithCode(7), "");
}

// The probe signals its mpiexec twice within 10 ms; every rank must hear of it, end in step with
// the others, and give its own exit code.
TEST(StopJob, MpiexecSendsItToEveryRankAndHandsTheCodeOn) {
  const JobResult job = run_job(3, "runtime_probe signalled");
  EXPECT_EQ(job.code, 75) << job.output;
  EXPECT_LT(job.seconds_left, 5);
}

}  // namespace
}  // namespace syncbn
