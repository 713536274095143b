// Threads per rank and their warnings, decided from made-up affinities.
#include "comm/threads.hpp"

#include <gtest/gtest.h>

#include "comm/thread_speed.hpp"

namespace syncbn {
namespace {

std::vector<int> cores(int first, int count) {
  std::vector<int> list(static_cast<size_t>(count));
  std::iota(list.begin(), list.end(), first);
  return list;
}

CoreFacts unbound(const std::string& host, int count, int omp = 0) {
  return {host, cores(0, count), cores(0, count), omp};
}

/// Every rank on `host` bound to `width` cores from its own `first` on, of `offered`.
CoreFacts bound(const std::string& host, int first, int width, int offered, int omp = 0) {
  return {host, cores(first, width), cores(0, offered), omp};
}

std::vector<int> counts(const std::vector<ThreadPlan>& plans) {
  std::vector<int> threads;
  for (const auto& plan : plans) threads.push_back(plan.threads);
  return threads;
}

/// The one warning of all plans.
std::string only_warning(const std::vector<ThreadPlan>& plans) {
  for (const auto& plan : plans) EXPECT_EQ(plan.warnings, plans[0].warnings);
  EXPECT_EQ(plans[0].warnings.size(), 1u) << testing::PrintToString(plans[0].warnings);
  const std::string text = plans[0].warnings.empty() ? "" : plans[0].warnings[0];
  EXPECT_EQ(text.find('\n'), std::string::npos);
  return text;
}

TEST(Threads, UnboundRanksShareTheCoresOfTheirHost) {
  const auto plans = plan_all_threads({unbound("a", 16), unbound("a", 16), unbound("b", 8)}, 0);
  EXPECT_EQ(counts(plans), (std::vector<int>{8, 8, 8}));
  EXPECT_EQ(plans[0].bound_cores, 16);
  EXPECT_TRUE(plans[0].warnings.empty());
}

TEST(Threads, ACoresRemainderIsLeftIdle) {
  const auto plans = plan_all_threads({unbound("a", 8), unbound("a", 8), unbound("a", 8)}, 0);
  EXPECT_EQ(counts(plans), (std::vector<int>{2, 2, 2}));
}

TEST(Threads, RanksBoundApartUseAllTheirOwn) {
  const auto plans = plan_all_threads({bound("a", 0, 4, 8), bound("a", 4, 4, 8)}, 0);
  EXPECT_EQ(counts(plans), (std::vector<int>{4, 4}));
  EXPECT_TRUE(plans[0].warnings.empty());
}

TEST(Threads, WhatIsAskedForWinsThenTheEnvironment) {
  const std::vector<CoreFacts> ranks{unbound("a", 16, 3), unbound("a", 16, 3)};
  EXPECT_EQ(counts(plan_all_threads(ranks, 5)), (std::vector<int>{5, 5}));
  EXPECT_EQ(counts(plan_all_threads(ranks, 0)), (std::vector<int>{3, 3}));
}

TEST(Threads, WarnsOfThreadsOnOneBoundCore) {
  const auto plans = plan_all_threads({bound("a", 0, 1, 8, 4), bound("a", 1, 1, 8, 4)}, 0);
  const std::string text = only_warning(plans);
  EXPECT_NE(text.find("ranks 0, 1 on a: 4 threads on 1 core"), std::string::npos) << text;
  EXPECT_NE(text.find("--bind-to none"), std::string::npos) << text;
  EXPECT_NE(text.find("--map-by slot:PE=4"), std::string::npos) << text;
}

TEST(Threads, WarnsOfRanksOnOneAndTheSameCore) {
  const auto plans = plan_all_threads({bound("a", 0, 1, 2), bound("a", 0, 1, 2)}, 0);
  EXPECT_EQ(counts(plans), (std::vector<int>{1, 1}));
  const std::string text = only_warning(plans);
  EXPECT_NE(text.find("ranks 0, 1 on a are all bound to core 0"), std::string::npos) << text;
}

TEST(Threads, WarnsOfMoreThreadsThanCores) {
  const auto plans =
      plan_all_threads({unbound("a", 2), unbound("a", 2), unbound("a", 2), unbound("b", 2)}, 0);
  EXPECT_EQ(counts(plans), (std::vector<int>{1, 1, 1, 2}));
  const std::string text = only_warning(plans);
  EXPECT_NE(text.find("3 ranks on a run 3 threads on 2 cores"), std::string::npos) << text;
}

TEST(Threads, WarnsOfCoresLeftIdleByBinding) {
  const auto plans = plan_all_threads({bound("a", 0, 1, 16), bound("a", 1, 1, 16)}, 0);
  EXPECT_EQ(counts(plans), (std::vector<int>{1, 1}));
  const std::string text = only_warning(plans);
  EXPECT_NE(text.find("PE=8"), std::string::npos) << text;
  EXPECT_TRUE(plan_all_threads({bound("a", 0, 1, 16)}, 1)[0].warnings.empty())
      << "one thread was asked for";
  EXPECT_TRUE(plan_all_threads({bound("a", 0, 1, 2), bound("a", 1, 1, 2)}, 0)[0].warnings.empty())
      << "no core is idle";
}

TEST(Threads, WarnsOnceOfTheRankThatThreadsSlowDownMost) {
  const ThreadSpeed alone{1, 1e-3, 1e-3}, helped{2, 1e-3, 6e-4}, slowed{2, 1e-3, 2.9e-3},
      stuck{4, 1e-3, 30e-3}, worse{8, 1e-4, 31e-4};
  const auto warning = [](const std::vector<ThreadSpeed>& speeds) {
    return warn_slow_threads(speeds, {"a", "b", "c"});
  };
  EXPECT_TRUE(warning({alone, helped, slowed}).empty()) << "threads may cost a little";
  const auto one = warning({alone, worse, stuck});
  ASSERT_EQ(one.size(), 1u);
  EXPECT_NE(one[0].find("rank 1 on b"), std::string::npos) << one[0];
  EXPECT_NE(one[0].find("31 times as long on its 8 threads"), std::string::npos) << one[0];
  EXPECT_NE(one[0].find("--run.threads 1"), std::string::npos) << one[0];
  EXPECT_NE(one[0].find("--bind-to none"), std::string::npos) << one[0];
}

TEST(Threads, OneThreadNeedsNoTry) {
  EXPECT_EQ(try_threads(1).slowdown(), 1);
}

TEST(Threads, TryingLeavesTheThreadsAsAskedFor) {
  const int before = at::get_num_threads();
  const ThreadSpeed speed = try_threads(2);
  EXPECT_EQ(speed.threads, 2);
  EXPECT_GT(speed.on_one_s, 0);
  EXPECT_GT(speed.on_all_s, 0);
  EXPECT_LT(speed.on_one_s, 1) << "some rounds were had";
  EXPECT_EQ(at::get_num_threads(), 2);
  at::set_num_threads(before);
}

}  // namespace
}  // namespace syncbn
