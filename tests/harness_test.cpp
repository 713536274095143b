// That the main program of MPI tests can fail: each case is a job of harness_probe.
#include <gtest/gtest.h>

#include "comm/cuda_device.hpp"
#include "support/job.hpp"

namespace syncbn {
namespace {

JobResult run_probe(int ranks, const std::string& test, int expected_ranks = 2) {
  setenv("SYNCBN_EXPECTED_RANKS", std::to_string(expected_ranks).c_str(), 1);
  return run_job(ranks, "harness_probe --gtest_filter=Probe." + test);
}

bool says(const JobResult& job, const std::string& text) {
  return job.output.find(text) != std::string::npos;
}

TEST(Harness, PassesWhatPasses) {
  const JobResult job = run_probe(2, "Passes");
  EXPECT_EQ(job.code, 0) << job.output;
  EXPECT_EQ(job.output.find("[       OK ]"), job.output.rfind("[       OK ]")) << job.output;
}

TEST(Harness, AFailureOnAnotherRankFailsTheTestAndIsShown) {
  const JobResult job = run_probe(2, "FailsOnTheLastRank");
  EXPECT_EQ(job.code, 1) << job.output;
  EXPECT_TRUE(says(job, "[rank 1/2] Probe.FailsOnTheLastRank: ")) << job.output;
  EXPECT_TRUE(says(job, "said by the last rank")) << job.output;
  EXPECT_TRUE(says(job, "[  FAILED  ] Probe.FailsOnTheLastRank")) << job.output;
}

TEST(Harness, AnExceptionOnAnotherRankFailsTheTest) {
  const JobResult job = run_probe(2, "Throws");
  EXPECT_EQ(job.code, 1) << job.output;
  EXPECT_TRUE(says(job, "[  FAILED  ] Probe.Throws")) << job.output;
}

TEST(Harness, ASkipIsAFailure) {
  EXPECT_EQ(run_probe(2, "Skips").code, 1);
}

TEST(Harness, NoTestAtAllIsAFailure) {
  EXPECT_EQ(run_probe(2, "Absent").code, 1);
}

TEST(Harness, AnotherNumberOfRanksIsAFailure) {
  const JobResult job = run_probe(2, "Passes", 3);
  EXPECT_EQ(job.code, 64) << job.output;
  EXPECT_TRUE(says(job, "this job has 2 ranks, and SYNCBN_EXPECTED_RANKS is 3")) << job.output;
}

TEST(Harness, OnADeviceASkipIsASkip) {
  const JobVariable device("SYNCBN_TEST_DEVICE", "cuda");
  EXPECT_EQ(run_probe(1, "Skips", 1).code, 77);
  EXPECT_EQ(run_probe(1, "Passes", 1).code, cuda::device_count() > 0 ? 0 : 77);
}

TEST(Harness, WithoutTheDeviceNoTestIsRun) {
  const JobVariable device("SYNCBN_TEST_DEVICE", "cuda"), none("CUDA_VISIBLE_DEVICES", "");
  const JobResult job = run_probe(2, "Passes", 2);
  EXPECT_EQ(job.code, 77) << job.output;
  EXPECT_TRUE(says(job, "all tests skipped: a rank sees no CUDA device")) << job.output;
  EXPECT_FALSE(says(job, "[ RUN")) << job.output;
}

}  // namespace
}  // namespace syncbn
