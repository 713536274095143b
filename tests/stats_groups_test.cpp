// Statistics groups: over all ranks the pieces are the batch, each group is whole, and every
// group's total is the same sum in the same order for any number of ranks. Random (b, M, V, R),
// fixed seed.
#include "nn/stats_groups.hpp"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/random.hpp"

namespace syncbn {
namespace {

struct Job {
  int64_t batch, group, shards;
  int ranks;
};

std::vector<GroupPlan> plans(const Job& job) {
  std::vector<GroupPlan> all;
  for (int r = 0; r < job.ranks; ++r) {
    all.push_back(plan_groups(job.batch, job.group, {job.shards, r, job.ranks, true}));
  }
  return all;
}

// One shard per rank.
std::vector<GroupPlan> plans(int64_t batch, int64_t group, int ranks) {
  return plans(Job{batch, group, ranks, ranks});
}

// Group that a row of the batch belongs to, by the definition.
int64_t group_of(const Job& job, int64_t row) {
  if (job.group != kLocal) return row / job.group;
  int64_t shard = 0;
  while (row >= job.batch * (shard + 1) / job.shards) ++shard;
  return shard;
}

// A sum as it was made: "((0 + 1) + 2)".
std::string fold(const TreeSum& sum, std::vector<std::string>& rows) {
  return rows[static_cast<size_t>(add_in_order(sum, [&](int64_t a, int64_t b) {
    rows[static_cast<size_t>(a)] =
        "(" + rows[static_cast<size_t>(a)] + " + " + rows[static_cast<size_t>(b)] + ")";
  }))];
}

// Row of the batch at which a piece begins → the total that the piece gets. Plays the exchange of
// nn/tree_exchange.cpp with texts: each piece starts as the rows it holds.
std::map<int64_t, std::string> totals(const Job& job) {
  const auto all = plans(job);
  std::vector<std::vector<std::string>> tables;
  for (int r = 0; r < job.ranks; ++r) {
    const StatsGroups& groups = all[static_cast<size_t>(r)].groups;
    const int64_t first = Sharding{job.shards, r, job.ranks}.rows(job.batch).begin;
    std::vector<std::string> table;
    for (const auto& piece : groups.pieces) {
      table.push_back(concat(first + piece.rows.begin, "-", first + piece.rows.end));
    }
    tables.push_back(table);
  }
  std::map<int, std::vector<std::string>> gathered;  // by color: in rank order, slot by slot
  for (int r = 0; r < job.ranks; ++r) {
    const GroupPlan& plan = all[static_cast<size_t>(r)];
    auto& slots = gathered[plan.color];
    const size_t begin = slots.size();
    for (const TreeSum& send : plan.groups.sends) {
      slots.push_back(fold(send, tables[static_cast<size_t>(r)]));
    }
    slots.resize(begin + static_cast<size_t>(plan.groups.slots), "empty slot");
  }
  std::map<int64_t, std::string> result;
  for (int r = 0; r < job.ranks; ++r) {
    const GroupPlan& plan = all[static_cast<size_t>(r)];
    auto& table = tables[static_cast<size_t>(r)];
    for (const auto& total : plan.groups.totals) {
      auto rows = total.gathered ? gathered[plan.color] : table;
      const std::string sum = fold(total.sum, rows);
      for (int64_t p = total.pieces.begin; p < total.pieces.end; ++p) {
        table[static_cast<size_t>(p)] = sum;
      }
    }
    const int64_t first = Sharding{job.shards, r, job.ranks}.rows(job.batch).begin;
    for (size_t p = 0; p < table.size(); ++p) {
      result[first + plan.groups.pieces[p].rows.begin] = table[p];
    }
  }
  return result;
}

void check(const Job& job) {
  SCOPED_TRACE(
      concat("b = ", job.batch, ", M = ", job.group, ", V = ", job.shards, ", R = ", job.ranks));
  int64_t next_row = 0;
  int r = 0;
  std::map<int, int64_t> slots;
  for (const auto& plan : plans(job)) {
    const Sharding sharding = {job.shards, r++, job.ranks, true};
    const Range share = sharding.rows(job.batch);
    const auto shard_rows = sharding.shard_rows(job.batch);
    EXPECT_EQ(slots.emplace(plan.color, plan.groups.slots).first->second, plan.groups.slots)
        << "ranks of one color disagree";
    for (const auto& piece : plan.groups.pieces) {
      EXPECT_EQ(share.begin + piece.rows.begin, next_row) << "rows are missing or twice";
      next_row = share.begin + piece.rows.end;
      const Range shard = shard_rows[static_cast<size_t>(piece.shard)];
      EXPECT_TRUE(shard.begin <= piece.rows.begin && piece.rows.end <= shard.end);
      std::set<int64_t> groups;
      for (int64_t i = piece.rows.begin; i < piece.rows.end; ++i) {
        groups.insert(group_of(job, share.begin + i));
      }
      EXPECT_EQ(groups.size(), 1u) << "a piece holds samples of two groups";
      int64_t members = 0;
      for (int64_t row = 0; row < job.batch; ++row) {
        members += group_of(job, row) == *groups.begin();
      }
      EXPECT_EQ(piece.group_samples, members);
    }
  }
  EXPECT_EQ(next_row, job.batch);

  // Every piece's total names each row of its group once, and the same sum as one rank makes.
  const auto sums = totals(job);
  EXPECT_EQ(sums, totals({job.batch, job.group, job.shards, 1}));
  for (const auto& [row, sum] : sums) {
    std::set<int64_t> rows;
    int64_t named = 0, begin = 0, end = 0;
    for (size_t i = 0; i < sum.size();) {
      if (sum[i] < '0' || sum[i] > '9') {
        ++i;
        continue;
      }
      size_t used = 0;
      begin = std::stoll(sum.substr(i), &used);
      end = std::stoll(sum.substr(i + used + 1));
      for (int64_t k = begin; k < end; ++k, ++named) rows.insert(k);
      i = sum.find_first_of(" )", i);
      if (i == std::string::npos) break;
    }
    EXPECT_EQ(static_cast<int64_t>(rows.size()), named) << sum;
    for (int64_t k = 0; k < job.batch; ++k) {
      EXPECT_EQ(rows.count(k) == 1, group_of(job, k) == group_of(job, row)) << sum;
    }
  }
}

TEST(StatsGroups, PiecesAndTotalsAreTheGroupsForRandomCuts) {
  const RandomStream random(11, Stream::kSynthetic, 0);
  for (uint64_t i = 0; i < 3000; ++i) {
    const auto batch = static_cast<int64_t>(random.below(60, 4 * i)) + 1;
    const auto group =
        static_cast<int64_t>(random.below(static_cast<uint64_t>(batch) + 1, 4 * i + 1));
    const auto ranks = static_cast<int>(random.below(9, 4 * i + 2)) + 1;
    const int64_t shards = ranks + static_cast<int64_t>(random.below(12, 4 * i + 3));
    check({batch, group, shards, ranks});
    check({batch, group, ranks, ranks});
  }
}

TEST(StatsGroups, GlobalTiesAllRanks) {
  for (const auto& plan : plans(128, 128, 4)) {
    EXPECT_EQ(plan.color, 0);
    EXPECT_EQ(plan.groups.slots, 1);
    ASSERT_EQ(plan.groups.pieces.size(), 1u);
    EXPECT_EQ(plan.groups.pieces[0].group_samples, 128);
  }
}

TEST(StatsGroups, AlignedShardsSendOneSlotAndOthersAFew) {
  for (const int ranks : {2, 4, 8, 16}) EXPECT_EQ(plans({128, 128, 16, ranks})[0].groups.slots, 1);
  EXPECT_EQ(plans({128, 128, 16, 3})[0].groups.slots, 3);
}

TEST(StatsGroups, WithinARankNothingIsSent) {
  for (const int64_t group : {int64_t{8}, int64_t{32}, kLocal}) {
    const auto all = plans(128, group, 4);
    for (int r = 0; r < 4; ++r) {
      EXPECT_EQ(all[static_cast<size_t>(r)].color, r);
      EXPECT_EQ(all[static_cast<size_t>(r)].groups.slots, 0);
    }
  }
  EXPECT_EQ(plans(128, 8, 4)[0].groups.pieces.size(), 4u);
}

TEST(StatsGroups, BetweenThemPairsOfRanks) {
  const auto all = plans(128, 64, 4);
  EXPECT_EQ(all[0].color, all[1].color);
  EXPECT_EQ(all[2].color, all[3].color);
  EXPECT_NE(all[1].color, all[2].color);
  for (const auto& plan : all) EXPECT_EQ(plan.groups.slots, 1);
}

TEST(StatsGroups, SmallestGroupIsTheTail) {
  EXPECT_EQ(plan_groups(97, 32, {3, 0, 3}).groups.smallest, 1);
  EXPECT_EQ(plan_groups(96, 32, {3, 0, 3}).groups.smallest, 32);
  EXPECT_EQ(plan_groups(7, kLocal, {3, 0, 3}).groups.smallest, 2);
}

}  // namespace
}  // namespace syncbn
