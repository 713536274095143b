// How jobs end: exit codes and messages of guarded_main, and the watchdog. Each case is a job.
#include "comm/runtime.hpp"

#include <gtest/gtest.h>

#include <map>

#include "comm/lone_tasks.hpp"
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

constexpr double kLimitS = 1.5;  // the probe's
constexpr double kToEndS = 4;    // a look at the clock, a second for other ranks' lines, mpiexec

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
  EXPECT_LT(job.seconds_left, kLimitS + kToEndS);
  // Who computes is told from who waits, and every rank is heard.
  EXPECT_EQ(count_lines(job.output, "no progress for 1.5 s: "), 3) << job.output;
  EXPECT_EQ(count_lines(job.output,
                        "computing in 'forward' of step 17, after collective 1 of 3 "
                        "ranks (barrier)"),
            1)
      << job.output;
  EXPECT_EQ(count_lines(job.output,
                        "waiting in collective 2 of 3 ranks (barrier: the end of the "
                        "probe of layer 2) in 'forward' of step 17"),
            2)
      << job.output;
  EXPECT_EQ(count_lines(job.output, "rank 2/3 "), 1) << job.output;
}

TEST(WatchdogJob, ARankThatLeavesEarlyEndsTheJob) {
  const JobResult job = run_job(3, "runtime_probe early");
  EXPECT_EQ(job.code, 124) << job.output;
  EXPECT_LT(job.seconds_left, kLimitS + kToEndS);
  EXPECT_EQ(count_lines(job.output, "no progress for"), 3) << job.output;
  EXPECT_EQ(count_lines(job.output, "waiting for the other ranks to end MPI in 'the end'"), 1)
      << job.output;
}

TEST(WatchdogJob, ARankStoppedBeforeMpiStartsEndsTheJob) {
  const JobVariable limit("SYNCBN_START_TIMEOUT", "2");
  const JobResult job = run_job(3, "runtime_probe absent");
  EXPECT_EQ(job.code, 124) << job.output;
  EXPECT_LT(job.seconds, 2 + 10) << "not before mpiexec's own time-out";
  EXPECT_GE(
      count_lines(job.output,
                  "no progress for 2 s: waiting for the other ranks to start MPI in 'the start'"),
      1)
      << job.output;
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

TEST(WatchdogJob, ARankFrozenBeforeMpiEndsEndsTheJob) {
  const JobResult job = run_job(2, "runtime_probe frozen_at_the_end");
  EXPECT_EQ(job.code, 124) << job.output;
  EXPECT_LT(job.seconds_left, kLimitS + kToEndS);
  EXPECT_EQ(count_lines(job.output, "rank 0/2 "), 1) << job.output;
  EXPECT_EQ(
      count_lines(job.output, "no progress for 1.5 s: waiting for the other ranks to end MPI"), 1)
      << job.output;
}

TEST(WatchdogJob, ABarrierOfTheNodeIsWatched) {
  const JobResult job = run_job(2, "runtime_probe node");
  EXPECT_EQ(job.code, 124) << job.output;
  EXPECT_EQ(count_lines(job.output, "no progress for 1.5 s: waiting for the node's other ranks"), 1)
      << job.output;
}

// A program that sets no limit: what it computes may take long, a wait for other ranks may not.
TEST(UsersProgram, ComputesAsLongAsItLikes) {
  const JobVariable limit("SYNCBN_TIMEOUT", "1");
  const JobResult job = run_job(2, "runtime_probe user_computes");
  EXPECT_EQ(job.code, 0) << job.output;
}

TEST(UsersProgram, ARankThatLeavesACollectiveOutEndsTheJob) {
  const JobVariable limit("SYNCBN_TIMEOUT", "2");
  const JobResult job = run_job(3, "runtime_probe user_stuck 600");  // the environment comes first
  EXPECT_EQ(job.code, 124) << job.output;
  EXPECT_LT(job.seconds_left, 2 + kToEndS);
  EXPECT_EQ(count_lines(job.output,
                        "no progress for 2 s: waiting in collective 2 of 3 ranks "
                        "(all_reduce (sum): gradients, 7 float32) in 'the program'"),
            2)
      << job.output;
  // The rank that only computes is ended by mpiexec, and still tells where it is.
  EXPECT_EQ(count_lines(job.output,
                        "s without progress: computing in 'the program', after "
                        "collective 1 of 3 ranks (barrier)"),
            1)
      << job.output;
}

TEST(UsersProgram, TheProgramMaySetTheLimit) {
  const JobResult job = run_job(2, "runtime_probe user_frozen 2");
  EXPECT_EQ(job.code, 124) << job.output;
  EXPECT_LT(job.seconds_left, 2 + kToEndS);
  EXPECT_EQ(count_lines(job.output, "no progress for 2 s: waiting in collective 2"), 1)
      << job.output;
  EXPECT_EQ(count_lines(job.output, ": got SIGTERM when it had stood still for"), 1) << job.output;
}

TEST(Terminated, ARankThatDoesNotHeedStopsEnds) {
  const JobResult job = run_job(1, "runtime_probe terminated");
  EXPECT_EQ(job.code, 128 + 15) << job.output;
}

TEST(Terminated, ARankThatHeedsStopsGoesOn) {
  const JobResult job = run_job(1, "runtime_probe terminated_and_heeds");
  EXPECT_EQ(job.code, 75) << job.output;
}

/// The loss that the probe shows, as text, and the ranks that it was trained on.
std::string trained(int ranks, const char* way) {
  const JobResult job = run_job(ranks, concat("own_mpi_probe ", way));
  EXPECT_EQ(job.code, 0) << job.output;
  EXPECT_EQ(count_lines(job.output, "loss "), 1) << job.output;
  const auto at = job.output.find("ranks ");
  return at == std::string::npos ? job.output
                                 : job.output.substr(at, job.output.find('\n', at) - at);
}

// A program that has initialised MPI itself. On three ranks a part of two trains.
TEST(OwnMpi, TrainsOnACommunicatorOfItsOwn) {
  const std::string one = trained(1, "train");
  EXPECT_EQ(trained(2, "train"), "ranks 2" + one.substr(7));
  EXPECT_EQ(trained(3, "train").substr(0, 7), "ranks 2");
  EXPECT_EQ(trained(3, "guarded"), "ranks 3" + one.substr(7));
}

TEST(OwnMpi, WaitsAreWatched) {
  const JobResult job = run_job(2, "own_mpi_probe stuck");
  EXPECT_EQ(job.code, 124) << job.output;
  EXPECT_LT(job.seconds_left, 2 + kToEndS);
  EXPECT_EQ(count_lines(job.output, "no progress for 2 s: waiting in collective 1 of 2 ranks"), 1)
      << job.output;
}

TEST(OwnMpi, WhatItCannotDoThrows) {  // too early, too late, from another thread, no such root
  const JobResult job = run_job(2, "own_mpi_probe wrong");
  EXPECT_EQ(job.code, 0) << job.output;
}

// What a launcher tells a task, and whether tasks that MPI sees as jobs of one rank are refused.
using Environment = std::map<std::string, const char*>;

bool refused(const Environment& environment, int world_size = 1) {
  const auto variables = [&](const char* name) {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second;
  };
  try {
    refuse_lone_tasks(world_size, variables);
  } catch (const UsageError& error) {
    EXPECT_EQ(error.code(), ExitCode::kUsage);
    return true;
  }
  return false;
}

TEST(LoneTasks, AreRefused) {
  EXPECT_TRUE(refused({{"SLURM_STEP_ID", "0"}, {"SLURM_NTASKS", "2"}, {"SLURM_PROCID", "1"}}));
  EXPECT_TRUE(refused({{"SLURM_STEP_ID", "3"}, {"SLURM_STEP_NUM_TASKS", "2"}}));
  EXPECT_TRUE(refused({{"PMI_SIZE", "4"}, {"PMI_RANK", "0"}}));
  EXPECT_TRUE(refused({{"OMPI_COMM_WORLD_SIZE", "2"}, {"OMPI_COMM_WORLD_RANK", "1"}}));
}

TEST(LoneTasks, WhatIsMeantToBeAloneIsNot) {
  EXPECT_FALSE(refused({}));
  // A batch script in an allocation of 8 tasks, whatever step Slurm numbers it as.
  EXPECT_FALSE(refused({{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}}));
  EXPECT_FALSE(refused({{"SLURM_STEP_ID", "4294967291"}, {"SLURM_NTASKS", "8"}}));
  // A step of one task in it.
  EXPECT_FALSE(
      refused({{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_NTASKS", "8"}}));
  // mpirun -n 1, whose helpers srun has started on two nodes.
  EXPECT_FALSE(refused(
      {{"OMPI_COMM_WORLD_SIZE", "1"}, {"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "2"}}));
}

TEST(LoneTasks, ThatFindEachOtherAreAJob) {
  EXPECT_FALSE(refused({{"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "2"}}, 2));
}

TEST(WatchdogJob, ALimitOfZeroSwitchesItOff) {
  const JobResult job = run_job(1, "runtime_probe off");
  EXPECT_EQ(job.code, 0) << job.output;
}

}  // namespace
}  // namespace syncbn
