// Statistics groups: over all ranks, the pieces are the batch, each group is whole, and what ranks
// believe of each other agrees. Random (b, M, R), fixed seed.
#include "nn/stats_groups.hpp"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/random.hpp"

namespace syncbn {
namespace {

struct Job {
  int64_t batch, group;
  int ranks;
};

std::vector<GroupPlan> plans(const Job& job) {
  std::vector<GroupPlan> all;
  for (int r = 0; r < job.ranks; ++r)
    all.push_back(plan_groups(job.batch, job.group, r, job.ranks));
  return all;
}

// Group that a row of the batch belongs to, by the definition.
int64_t group_of(const Job& job, int64_t row) {
  if (job.group != kLocal) return row / job.group;
  for (int r = 0; r < job.ranks; ++r) {
    const Range share = share_of(job.batch, r, job.ranks);
    if (row >= share.begin && row < share.end) return r;
  }
  return -1;
}

void check(const Job& job) {
  SCOPED_TRACE(concat("b = ", job.batch, ", M = ", job.group, ", R = ", job.ranks));
  const auto all = plans(job);
  int64_t next_row = 0;
  // (color, shared index) → rows of that shared group; whole pieces get keys of their own.
  std::map<std::pair<int, int64_t>, std::set<int64_t>> shared_groups;
  std::map<int, int64_t> shared_count;
  for (int r = 0; r < job.ranks; ++r) {
    const auto& plan = all[static_cast<size_t>(r)];
    const Range share = share_of(job.batch, r, job.ranks);
    const auto [known, fresh] = shared_count.emplace(plan.color, plan.groups.shared);
    EXPECT_EQ(known->second, plan.groups.shared) << "ranks of one color disagree";
    for (const auto& piece : plan.groups.pieces) {
      EXPECT_EQ(share.begin + piece.rows.begin, next_row) << "rows are missing or twice";
      next_row = share.begin + piece.rows.end;
      std::set<int64_t> rows;
      for (int64_t i = piece.rows.begin; i < piece.rows.end; ++i) rows.insert(share.begin + i);
      std::set<int64_t> groups;
      for (const int64_t row : rows) groups.insert(group_of(job, row));
      EXPECT_EQ(groups.size(), 1u) << "a piece holds samples of two groups";
      int64_t members = 0;
      for (int64_t row = 0; row < job.batch; ++row)
        members += group_of(job, row) == *groups.begin();
      EXPECT_EQ(piece.group_samples, members);
      if (piece.shared == StatsGroups::kWhole) {
        EXPECT_EQ(piece.rows.size(), members) << "a piece called whole is not";
      } else {
        EXPECT_LT(piece.shared, plan.groups.shared);
        shared_groups[{plan.color, piece.shared}].merge(rows);
      }
    }
  }
  EXPECT_EQ(next_row, job.batch);
  for (const auto& [key, rows] : shared_groups) {
    const int64_t group = group_of(job, *rows.begin());
    int64_t members = 0;
    for (int64_t row = 0; row < job.batch; ++row) members += group_of(job, row) == group;
    EXPECT_EQ(static_cast<int64_t>(rows.size()), members) << "a shared group misses samples";
  }
}

TEST(StatsGroups, PiecesAreTheGroupsForRandomCuts) {
  const RandomStream random(11, Stream::kSynthetic, 0);
  for (uint64_t i = 0; i < 3000; ++i) {
    const auto batch = static_cast<int64_t>(random.below(60, 3 * i)) + 1;
    const auto group =
        static_cast<int64_t>(random.below(static_cast<uint64_t>(batch) + 1, 3 * i + 1));
    check({batch, group, static_cast<int>(random.below(9, 3 * i + 2)) + 1});
  }
}

TEST(StatsGroups, GlobalTiesAllRanks) {
  const auto all = plans({128, 128, 4});
  for (const auto& plan : all) {
    EXPECT_EQ(plan.color, 0);
    EXPECT_EQ(plan.groups.shared, 1);
    ASSERT_EQ(plan.groups.pieces.size(), 1u);
    EXPECT_EQ(plan.groups.pieces[0].group_samples, 128);
  }
}

TEST(StatsGroups, WithinARankNothingIsShared) {
  for (const int64_t group : {int64_t{8}, int64_t{32}, kLocal}) {
    const auto all = plans({128, group, 4});
    for (int r = 0; r < 4; ++r) {
      EXPECT_EQ(all[static_cast<size_t>(r)].color, r);
      EXPECT_EQ(all[static_cast<size_t>(r)].groups.shared, 0);
    }
  }
  EXPECT_EQ(plans({128, 8, 4})[0].groups.pieces.size(), 4u);
}

TEST(StatsGroups, BetweenThemPairsOfRanks) {
  const auto all = plans({128, 64, 4});
  EXPECT_EQ(all[0].color, all[1].color);
  EXPECT_EQ(all[2].color, all[3].color);
  EXPECT_NE(all[1].color, all[2].color);
  for (const auto& plan : all) EXPECT_EQ(plan.groups.shared, 1);
}

TEST(StatsGroups, SmallestGroupIsTheTail) {
  EXPECT_EQ(plan_groups(97, 32, 0, 3).groups.smallest, 1);
  EXPECT_EQ(plan_groups(96, 32, 0, 3).groups.smallest, 32);
  EXPECT_EQ(plan_groups(7, kLocal, 0, 3).groups.smallest, 2);
}

}  // namespace
}  // namespace syncbn
