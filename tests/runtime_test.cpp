// How jobs end: exit codes and messages of guarded_main, and the watchdog. Each case is a job.
#include "comm/runtime.hpp"

#include <gtest/gtest.h>

#include "support/job.hpp"

namespace syncbn {
namespace {

/// Lines of `output` that contain `part`.
int count_lines(const std::string& output, const std::string& part) {
  std::istringstream lines(output);
  int count = 0;
  for (std::string line; std::getline(lines, line);) {
    count += line.find(part) != std::string::npos ? 1 : 0;
  }
  return count;
}

TEST(GuardedMain, TheBodysValueIsTheExitCode) {
  const JobResult job = run_job(2, "runtime_probe stopped");
  EXPECT_EQ(job.code, 75) << job.output;
}

TEST(GuardedMain, AUsageErrorIsPrintedOnceAndItsCodeIsTheJobs) {
  const JobResult job = run_job(3, "runtime_probe usage");
  EXPECT_EQ(job.code, 78) << job.output;
  EXPECT_EQ(count_lines(job.output, "the key is wrong"), 1) << job.output;
  EXPECT_EQ(count_lines(job.output, "runtime_probe: the key is wrong"), 1) << job.output;
}

TEST(GuardedMain, AgreeTurnsOneRanksErrorIntoEverybodys) {
  const JobResult job = run_job(3, "runtime_probe agree");
  EXPECT_EQ(job.code, 65) << job.output;
  EXPECT_EQ(count_lines(job.output, "runtime_probe: [rank 2/3] the file is torn"), 1) << job.output;
}

TEST(GuardedMain, AnErrorOnOneRankEndsTheJobAtOnceWithItsCode) {
  const JobResult job = run_job(3, "runtime_probe error");
  EXPECT_EQ(job.code, 74) << job.output;
  EXPECT_LT(job.seconds_left, 5);
  EXPECT_EQ(count_lines(job.output, "the disk is full"), 1) << job.output;
  EXPECT_EQ(count_lines(job.output, "[rank 2/3 "), 1) << job.output;
}

TEST(GuardedMain, DestructorsDoNotHoldAFailingRank) {
  const JobResult job = run_job(2, "runtime_probe unwind");
  EXPECT_EQ(job.code, 70) << job.output;
  EXPECT_LT(job.seconds_left, 5);
  EXPECT_EQ(count_lines(job.output, "in the middle"), 1) << job.output;
}

TEST(GuardedMain, ForeignExceptionsAreBrokenInvariantsInOneLine) {
  const JobResult standard = run_job(2, "runtime_probe runtime_error");
  EXPECT_EQ(standard.code, 70) << standard.output;
  EXPECT_EQ(count_lines(standard.output, "first line"), 1) << standard.output;
  EXPECT_EQ(count_lines(standard.output, "second line"), 0) << standard.output;

  const JobResult torch = run_job(2, "runtime_probe torch_error");
  EXPECT_EQ(torch.code, 70) << torch.output;
  EXPECT_EQ(count_lines(torch.output, "shapes differ"), 1) << torch.output;
  EXPECT_EQ(count_lines(torch.output, "frame #"), 0) << torch.output;
}

TEST(WatchdogJob, AStuckRankEndsTheJob) {
  const JobResult job = run_job(3, "runtime_probe stuck");
  EXPECT_EQ(job.code, 124) << job.output;
  EXPECT_LT(job.seconds_left, 1.5 + 3);
  EXPECT_GE(count_lines(job.output, "in 'forward' of step 17"), 1) << job.output;
}

TEST(WatchdogJob, ARankThatLeavesEarlyEndsTheJob) {
  const JobResult job = run_job(3, "runtime_probe early");
  EXPECT_EQ(job.code, 124) << job.output;
  EXPECT_LT(job.seconds_left, 1.5 + 3);
  EXPECT_GE(count_lines(job.output, "no progress for"), 1) << job.output;
}

TEST(WatchdogJob, ARankStoppedBeforeMpiStartsEndsTheJob) {
  const JobVariable limit("SYNCBN_START_TIMEOUT", "2");
  const JobResult job = run_job(3, "runtime_probe absent");
  EXPECT_EQ(job.code, 124) << job.output;
  EXPECT_LT(job.seconds, 2 + 10) << "not before mpiexec's own time-out";
  EXPECT_GE(count_lines(job.output, "no progress for 2 s, in 'starting MPI'"), 1) << job.output;
}

TEST(WatchdogJob, TheLimitOfTheStartIsOverOnceMpiRuns) {
  const JobVariable limit("SYNCBN_START_TIMEOUT", "2");
  const JobResult job = run_job(2, "runtime_probe slow");
  EXPECT_EQ(job.code, 0) << job.output;
  EXPECT_GT(job.seconds_left, 2);
}

TEST(WatchdogJob, ALimitOfTheStartThatIsNoNumberIsRefused) {
  const JobVariable limit("SYNCBN_START_TIMEOUT", "2m");
  const JobResult job = run_job(1, "runtime_probe stopped");
  EXPECT_EQ(job.code, 64) << job.output;
  EXPECT_EQ(count_lines(job.output, "SYNCBN_START_TIMEOUT is '2m'"), 1) << job.output;
}

TEST(WatchdogJob, BeatsKeepASlowJobAlive) {
  const JobResult job = run_job(2, "runtime_probe slow");
  EXPECT_EQ(job.code, 0) << job.output;
  EXPECT_GT(job.seconds_left, 2 * 1.5);
}

TEST(WatchdogJob, APauseHoldsItForAsLongAsItLasts) {
  EXPECT_EQ(run_job(1, "runtime_probe paused").code, 0);
  const JobResult stuck = run_job(1, "runtime_probe stuck_after_a_pause");
  EXPECT_EQ(stuck.code, 124) << stuck.output;
}

TEST(WatchdogJob, ALimitOfZeroSwitchesItOff) {
  const JobResult job = run_job(1, "runtime_probe off");
  EXPECT_EQ(job.code, 0) << job.output;
}

}  // namespace
}  // namespace syncbn
