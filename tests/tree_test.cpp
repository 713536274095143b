// The tree of a sum and the shards of a batch: however neighbouring parts are dealt out, they add
// up in the one order. Sums are texts here, so that the order can be read. Random cuts, fixed seed.
#include "base/tree.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.hpp"
#include "base/random.hpp"
#include "base/sharding.hpp"

namespace syncbn {
namespace {

/// The sum of parts begin … end − 1 by the definition: "((0 + 1) + 2)".
std::string by_definition(int64_t begin, int64_t end) {
  if (end - begin == 1) return std::to_string(begin);
  int64_t half = 1;
  while (2 * half < end - begin) half *= 2;
  return concat("(", by_definition(begin, begin + half), " + ", by_definition(begin + half, end),
                ")");
}

std::string add_up(const TreeSum& sum, std::vector<std::string> parts) {
  return parts[static_cast<size_t>(add_in_order(sum, [&](int64_t a, int64_t b) {
    parts[static_cast<size_t>(a)] =
        concat("(", parts[static_cast<size_t>(a)], " + ", parts[static_cast<size_t>(b)], ")");
  }))];
}

/// Parts 0 … count − 1 of texts first, first + 1, …
std::vector<std::string> numbers(int64_t first, int64_t count) {
  std::vector<std::string> texts;
  for (int64_t i = 0; i < count; ++i) texts.push_back(std::to_string(first + i));
  return texts;
}

/// The sum over [0, n) of what the runs between neighbouring `borders` make of their parts.
std::string by_runs(int64_t n, const std::vector<int64_t>& borders) {
  std::vector<Range> nodes;
  std::vector<std::string> texts;
  for (size_t r = 0; r + 1 < borders.size(); ++r) {
    const Range run = {borders[r], borders[r + 1]};
    const auto own = tree_nodes(n, run);
    EXPECT_LE(static_cast<double>(own.size()), 2 * std::log2(static_cast<double>(n)) + 1);
    int64_t next = run.begin;
    for (const Range node : own) {
      EXPECT_EQ(node.begin, next) << "parts are missing or twice";
      next = node.end;
      TreeSum sum = {{}, tree_merges(n, node)};
      for (int64_t i = 0; i < node.size(); ++i) sum.parts.push_back(i);
      texts.push_back(add_up(sum, numbers(node.begin, node.size())));
      EXPECT_EQ(texts.back(), by_definition(node.begin, node.end)) << "of [0, " << n << ")";
      nodes.push_back(node);
    }
    EXPECT_EQ(next, run.end);
  }
  TreeSum last = {{}, tree_merges(n, nodes)};
  for (size_t i = 0; i < nodes.size(); ++i) last.parts.push_back(static_cast<int64_t>(i));
  return add_up(last, texts);
}

TEST(Tree, HalvesAreThoseOfTheDefinition) {
  EXPECT_EQ(by_definition(0, 5), "(((0 + 1) + (2 + 3)) + 4)");
  for (int64_t size = 2; size < 300; ++size) {
    const auto [left, right] = tree_halves({7, 7 + size});
    EXPECT_EQ(left.begin, 7);
    EXPECT_EQ(left.end, right.begin);
    EXPECT_EQ(right.end, 7 + size);
    EXPECT_EQ(left.size() & (left.size() - 1), 0) << "no power of two";
    EXPECT_LT(left.size(), size);
    EXPECT_GE(2 * left.size(), size);
  }
}

TEST(Tree, AnyRunsAddUpInTheSameOrder) {
  const RandomStream random(5, Stream::kSynthetic, 0);
  uint64_t drawn = 0;
  const auto below = [&](int64_t bound) {
    return static_cast<int64_t>(random.below(static_cast<uint64_t>(bound), drawn++));
  };
  for (int i = 0; i < 3000; ++i) {
    const int64_t n = 1 + below(70);
    std::vector<int64_t> borders = {0, n};
    for (int64_t cuts = below(9); cuts > 0; --cuts) borders.push_back(below(n + 1));
    std::sort(borders.begin(), borders.end());  // equal ones make empty runs
    EXPECT_EQ(by_runs(n, borders), by_definition(0, n)) << testing::PrintToString(borders);
  }
}

TEST(Tree, AnAlignedRunIsOneNode) {
  for (const int64_t run : {1, 2, 4, 8, 16}) {
    for (int64_t ranks = 1; ranks <= 9; ++ranks) {
      for (int64_t r = 0; r < ranks; ++r) {
        EXPECT_EQ(tree_nodes(run * ranks, {r * run, (r + 1) * run}).size(), 1u)
            << ranks << " runs of " << run;
      }
    }
  }
  for (int64_t n = 1; n < 100; ++n) EXPECT_EQ(tree_nodes(n, {0, n}).size(), 1u);
}

TEST(Tree, NoPartsMakeNoNodes) {
  EXPECT_TRUE(tree_nodes(8, {3, 3}).empty());
  EXPECT_TRUE(tree_nodes(0, {0, 0}).empty());
  EXPECT_TRUE(tree_merges(8, std::vector<Range>{}).empty());
}

TEST(Tree, RefusesPartsThatAreNoNodes) {
  EXPECT_THROW(tree_merges(4, {{0, 1}, {1, 3}, {3, 4}}), Error);  // [1, 3) is no node
  EXPECT_THROW(tree_merges(4, {{1, 2}, {2, 3}}), Error);          // together no node
  EXPECT_THROW(tree_merges(4, {{0, 2}, {3, 4}}), Error);          // 2 is missing
}

TEST(Tree, ManyPartsFitTheStack) {
  constexpr int64_t kParts = (1 << 20) - 1;
  TreeSum sum = {{}, tree_merges(kParts, {0, kParts})};
  std::vector<int64_t> counts(kParts, 1);
  for (int64_t i = 0; i < kParts; ++i) sum.parts.push_back(i);
  const int64_t total = add_in_order(sum, [&](int64_t a, int64_t b) {
    EXPECT_LT(a, b);
    counts[static_cast<size_t>(a)] += counts[static_cast<size_t>(b)];
  });
  EXPECT_EQ(total, 0) << "a tree's total is where its first part was";
  EXPECT_EQ(counts[0], kParts);
}

/// The shards and rows of all ranks, and the sum over all shards as the ranks make it.
void check(int64_t batch, int64_t shards, int ranks) {
  SCOPED_TRACE(concat("b = ", batch, ", V = ", shards, ", R = ", ranks));
  int64_t next_row = 0, next_shard = 0, most_rows = 0, most_nodes = 0;
  std::vector<Range> nodes;
  std::vector<std::string> texts;
  for (int r = 0; r < ranks; ++r) {
    const Sharding sharding = {shards, r, ranks, true};
    const Range mine = sharding.mine(), rows = sharding.rows(batch);
    EXPECT_EQ(mine.begin, next_shard);
    EXPECT_EQ(rows.begin, next_row);
    next_shard = mine.end;
    next_row = rows.end;
    const auto shard_rows = sharding.shard_rows(batch);
    ASSERT_EQ(static_cast<int64_t>(shard_rows.size()), mine.size());
    int64_t next = 0;
    for (int64_t v = mine.begin; v < mine.end; ++v) {
      const Range shard = shard_rows[static_cast<size_t>(v - mine.begin)];
      EXPECT_EQ(shard.begin, next);
      EXPECT_EQ(rows.begin + shard.begin, batch * v / shards);
      EXPECT_EQ(rows.begin + shard.end, batch * (v + 1) / shards);
      next = shard.end;
    }
    EXPECT_EQ(next, rows.size());
    most_rows = std::max(most_rows, rows.size());

    const auto own = tree_nodes(shards, mine);
    const auto sums = sharding.node_sums();
    ASSERT_EQ(sums.size(), own.size());
    for (size_t k = 0; k < own.size(); ++k) {
      nodes.push_back(own[k]);
      texts.push_back(add_up(sums[k], numbers(mine.begin, mine.size())));
      EXPECT_EQ(texts.back(), by_definition(own[k].begin, own[k].end));
    }
    most_nodes = std::max(most_nodes, static_cast<int64_t>(own.size()));
  }
  EXPECT_EQ(next_shard, shards);
  EXPECT_EQ(next_row, batch);
  const Sharding any = {shards, 0, ranks, true};
  EXPECT_EQ(any.most_rows(batch), most_rows);
  EXPECT_EQ(any.most_nodes(), most_nodes);
  TreeSum last = {{}, tree_merges(shards, nodes)};
  for (size_t i = 0; i < nodes.size(); ++i) last.parts.push_back(static_cast<int64_t>(i));
  EXPECT_EQ(add_up(last, texts), by_definition(0, shards));
}

TEST(Sharding, RowsAndShardsAreDealtOutOnceAndAddUpInOneOrder) {
  const RandomStream random(6, Stream::kSynthetic, 0);
  for (uint64_t i = 0; i < 3000; ++i) {
    const auto batch = static_cast<int64_t>(random.below(200, 3 * i));
    const auto shards = 1 + static_cast<int64_t>(random.below(40, 3 * i + 1));
    const auto ranks = 1 + static_cast<int>(random.below(45, 3 * i + 2));  // more than shards, too
    check(batch, shards, ranks);
  }
}

TEST(Sharding, MoreShardsThanRowsLeavesSomeEmpty) {
  const Sharding sharding = {8, 1, 2, true};
  int64_t empty = 0, rows = 0;
  for (const Range shard : sharding.shard_rows(5)) {
    empty += shard.size() == 0;
    rows += shard.size();
  }
  EXPECT_EQ(rows, 3);
  EXPECT_EQ(empty, 1);
}

}  // namespace
}  // namespace syncbn
