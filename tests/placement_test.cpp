// Where ranks compute, decided from made-up hosts and devices.
#include "comm/placement.hpp"

#include <gtest/gtest.h>

namespace syncbn {
namespace {

const DeviceFacts kGpu0{"0000:17:00.0", "H200"}, kGpu1{"0000:18:00.0", "H200"};

std::string refusal(const std::vector<RankFacts>& ranks, const std::string& device,
                    const std::string& backend, bool have_nccl = true) {
  std::string message;
  for (int r = 0; r < static_cast<int>(ranks.size()); ++r) {
    try {
      plan_placement(ranks, r, device, backend, have_nccl);
      ADD_FAILURE() << "rank " << r << " was not refused";
    } catch (const UsageError& error) {
      EXPECT_EQ(error.code(), ExitCode::kUnavailable);
      EXPECT_TRUE(r == 0 || message == error.what()) << "ranks throw differently";
      message = error.what();
    }
  }
  return message;
}

TEST(Placement, OneGpuPerRankTakesNccl) {
  const std::vector<RankFacts> ranks{{"a", 0, {kGpu0, kGpu1}}, {"a", 1, {kGpu0, kGpu1}}};
  const Placement second = plan_placement(ranks, 1, "auto", "auto", true);
  EXPECT_EQ(second.device, at::Device(at::kCUDA, 1));
  EXPECT_EQ(second.backend, "nccl");
  EXPECT_EQ(second.note, "");
  EXPECT_EQ(second.rank_devices,
            (std::vector<std::string>{"a: cuda:0 (H200)", "a: cuda:1 (H200)"}));
}

TEST(Placement, ALauncherThatShowsEachRankItsOwnGpuIsNotSharing) {
  const std::vector<RankFacts> ranks{{"a", 0, {kGpu0}}, {"a", 1, {kGpu1}}};
  const Placement second = plan_placement(ranks, 1, "auto", "auto", true);
  EXPECT_EQ(second.device, at::Device(at::kCUDA, 0));
  EXPECT_EQ(second.backend, "nccl");
}

TEST(Placement, TheSameBusIdOnAnotherHostIsAnotherGpu) {
  const std::vector<RankFacts> ranks{{"a", 0, {kGpu0}}, {"b", 0, {kGpu0}}};
  EXPECT_EQ(plan_placement(ranks, 0, "auto", "auto", true).backend, "nccl");
}

TEST(Placement, ASharedGpuFallsBackToMpiAndSaysSo) {
  const std::vector<RankFacts> ranks{
      {"a", 0, {kGpu0, kGpu1}}, {"a", 1, {kGpu0, kGpu1}}, {"a", 2, {kGpu0, kGpu1}}};
  const Placement third = plan_placement(ranks, 2, "auto", "auto", true);
  EXPECT_EQ(third.device, at::Device(at::kCUDA, 0));
  EXPECT_EQ(third.backend, "mpi");
  EXPECT_NE(third.note.find("ranks 0 and 2 share a GPU"), std::string::npos) << third.note;
}

TEST(Placement, NcclOnASharedGpuIsRefusedWithTheMapping) {
  const std::vector<RankFacts> ranks{{"a", 0, {kGpu0}}, {"a", 1, {kGpu0}}};
  const std::string message = refusal(ranks, "cuda", "nccl");
  EXPECT_NE(message.find("rank 1 on a: cuda:0 (H200)"), std::string::npos) << message;
}

TEST(Placement, AutoTakesTheCpuIfOneRankHasNoDevice) {
  const std::vector<RankFacts> ranks{{"a", 0, {kGpu0}}, {"b", 0, {}}};
  const Placement first = plan_placement(ranks, 0, "auto", "auto", true);
  EXPECT_EQ(first.device, at::Device(at::kCPU));
  EXPECT_EQ(first.backend, "mpi");
  EXPECT_EQ(first.rank_devices, (std::vector<std::string>{"a: cpu", "b: cpu"}));
  EXPECT_NE(first.note.find("all ranks compute on the CPU"), std::string::npos) << first.note;
  EXPECT_EQ(plan_placement(ranks, 0, "cpu", "auto", true).note, "");
}

TEST(Placement, WhatIsAskedForAndMissingIsRefused) {
  const std::vector<RankFacts> ranks{{"a", 0, {kGpu0}}, {"b", 0, {}}};
  EXPECT_NE(refusal(ranks, "cuda", "auto").find("rank 1 on b: no device"), std::string::npos);
  EXPECT_NE(refusal(ranks, "auto", "nccl").find("rank 1 on b: no device"), std::string::npos);
  const std::vector<RankFacts> whole{{"a", 0, {kGpu0}}};
  EXPECT_NE(refusal(whole, "cpu", "nccl").find("run.device cuda"), std::string::npos);
  EXPECT_NE(refusal(whole, "cuda", "nccl", false).find("no NCCL"), std::string::npos);
}

// CUDA's own numbers: 13.0 is 13000, 12.4 is 12040; 0 is no driver.
TEST(Placement, ADriverThatIsTooOldIsNamed) {
  const std::string old = cuda_obstacle({12040, 13000, "CUDA driver version is insufficient"});
  EXPECT_EQ(
      old,
      "NVIDIA driver serves CUDA 12.4 at most, and this build needs CUDA 13.0: driver r580 or "
      "newer");
  EXPECT_EQ(cuda_obstacle({13000, 13000, ""}), "");
  EXPECT_EQ(cuda_obstacle({13000, 13010, ""}), "") << "of one major version all work";
  EXPECT_EQ(cuda_obstacle({13020, 13000, ""}), "");
  EXPECT_EQ(cuda_obstacle({0, 13000, ""}), "") << "a host without a GPU is as it should be";
  EXPECT_EQ(cuda_obstacle({}), "");
  EXPECT_EQ(cuda_obstacle({13000, 13000, "system not yet initialized"}),
            "CUDA fails: system not yet initialized");
}

TEST(Placement, AutoSaysWhyADriverIsOfNoUse) {
  const std::string old = cuda_obstacle({12040, 13000, ""});
  for (const std::vector<RankFacts>& ranks :
       {std::vector<RankFacts>{{"a", 0, {}, old}, {"a", 1, {}, old}},
        std::vector<RankFacts>{{"b", 0, {kGpu0}, ""}, {"a", 0, {}, old}}}) {
    const Placement first = plan_placement(ranks, 0, "auto", "auto", true);
    EXPECT_TRUE(first.device.is_cpu());
    EXPECT_NE(first.note.find("all ranks compute on the CPU, because a's NVIDIA driver serves"),
              std::string::npos)
        << first.note;
    EXPECT_NE(first.note.find("r580"), std::string::npos) << first.note;
    EXPECT_EQ(plan_placement(ranks, 0, "cpu", "auto", true).note, "") << "none was asked for";
    EXPECT_NE(refusal(ranks, "cuda", "auto").find("a's NVIDIA driver serves CUDA 12.4"),
              std::string::npos);
  }
}

TEST(Placement, WithoutNcclCudaGoesByMpi) {
  const std::vector<RankFacts> ranks{{"a", 0, {kGpu0}}};
  const Placement placement = plan_placement(ranks, 0, "cuda", "auto", false);
  EXPECT_TRUE(placement.device.is_cuda());
  EXPECT_EQ(placement.backend, "mpi");
  EXPECT_NE(placement.note, "");
}

TEST(Placement, ExplicitChoicesAreKept) {
  const std::vector<RankFacts> ranks{{"a", 0, {kGpu0}}};
  EXPECT_TRUE(plan_placement(ranks, 0, "cpu", "auto", true).device.is_cpu());
  const Placement staged = plan_placement(ranks, 0, "cuda", "mpi", true);
  EXPECT_EQ(staged.backend, "mpi");
  EXPECT_EQ(staged.note, "");
}

TEST(Placement, UnknownWordsAreRefusedWithTheKnownOnes) {
  try {
    plan_placement({{"a", 0, {}}}, 0, "gpu", "auto", true);
    ADD_FAILURE() << "accepted";
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("auto cpu cuda"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace syncbn
