// The sum over shards: on any number of ranks the bits of the tree over all shards, made on one.
// Values differ by twelve orders of magnitude, so that another order gives other bits.
#include "comm/tree_all_reduce.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <limits>

#include "support/close.hpp"
#include "support/mpi_main.hpp"
#include "support/shards.hpp"

namespace syncbn {
namespace {

const std::vector<int64_t> kWidths{0, 1, 2, 7, 64, 1003, 20011};  // fewer than ranks, and odd

at::Tensor shard_vector(int64_t shard, int64_t width, at::ScalarType dtype, int64_t round) {
  torch::manual_seed(static_cast<uint64_t>(1000 * round + shard));
  const at::Tensor magnitude = torch::pow(10.0, torch::randint(-6, 7, {width}, at::kDouble));
  return (torch::randn({width}, at::kDouble) * magnitude).to(dtype);
}

std::vector<at::Tensor> shard_vectors(int64_t shards, int64_t width, at::ScalarType dtype,
                                      int64_t round) {
  std::vector<at::Tensor> all;
  for (int64_t v = 0; v < shards; ++v) all.push_back(shard_vector(v, width, dtype, round));
  return all;
}

Sharding sharding_of(int64_t shards, bool canonical) {
  return {shards, test_runtime().rank(), test_runtime().size(), canonical};
}

/// Writes this rank's nodes of the sum.
void fill(TreeAllReduce& all, const Sharding& sharding, const std::vector<at::Tensor>& vectors) {
  int64_t k = 0;
  for (const Range node : tree_nodes(sharding.shards, sharding.mine())) {
    all.nodes()[k++].copy_(tree_total(vectors, node.begin, node.end));
  }
}

class Sums : public testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Types, Sums, testing::Values(at::kFloat, at::kDouble),
                         [](const auto& type) { return std::string(at::toString(type.param)); });

TEST_P(Sums, AreThoseOfTheTreeOnOneRank) {
  const int64_t ranks = test_runtime().size();
  for (const int64_t shards : {ranks, ranks + 1, 2 * ranks, 3 * ranks + 2, int64_t{16}}) {
    for (const int64_t width : kWidths) {
      SCOPED_TRACE(concat("V = ", shards, ", width ", width));
      const Sharding sharding = sharding_of(shards, true);
      TreeAllReduce all(test_runtime().world(), sharding, width, GetParam(), test_device());
      ASSERT_EQ(all.nodes().size(0), sharding.most_nodes());
      for (int64_t round = 0; round < 3; ++round) {  // whatever the round before left
        const auto vectors = shard_vectors(shards, width, GetParam(), round);
        fill(all, sharding, vectors);
        all.run();
        expect_same_bits(all.total(), tree_total(vectors), concat("round ", round));
        expect_same_bits(all.nodes()[0], all.total(), "row 0");
      }
    }
  }
}

TEST_P(Sums, OfOtherOrdersDiffer) {
  const auto vectors = shard_vectors(16, 1003, GetParam(), 0);
  at::Tensor one_by_one = vectors[0].clone();
  for (size_t v = 1; v < vectors.size(); ++v) one_by_one.add_(vectors[v]);
  EXPECT_FALSE(at::equal(one_by_one, tree_total(vectors)));
}

// A rank that holds none of the shards takes part, and what it has in its row does not matter.
TEST_P(Sums, TakeNothingFromARankWithoutShards) {
  const int64_t ranks = test_runtime().size(), shards = std::max<int64_t>(1, ranks - 2);
  const Sharding sharding = sharding_of(shards, true);
  TreeAllReduce all(test_runtime().world(), sharding, 101, GetParam(), test_device());
  const auto vectors = shard_vectors(shards, 101, GetParam(), 5);
  all.nodes().fill_(7);
  fill(all, sharding, vectors);
  all.run();
  expect_same_bits(all.total(), tree_total(vectors), concat("V = ", shards));
}

// Any order of R additions: within R − 1 roundings of the sum of magnitudes, to first order.
TEST_P(Sums, InFastModeAreTheSameButForRounding) {
  const int64_t ranks = test_runtime().size();
  const double rounding = GetParam() == at::kFloat ? std::numeric_limits<float>::epsilon()
                                                   : std::numeric_limits<double>::epsilon();
  for (const int64_t width : kWidths) {
    const Sharding sharding = sharding_of(ranks, false);
    TreeAllReduce all(test_runtime().world(), sharding, width, GetParam(), test_device());
    EXPECT_EQ(all.nodes().size(0), 1);
    for (int64_t round = 0; round < 3; ++round) {
      const auto vectors = shard_vectors(ranks, width, GetParam(), round);
      fill(all, sharding, vectors);
      all.run();
      const at::Tensor exact = torch::stack(vectors).to(at::kDouble);
      const at::Tensor error = (all.total().cpu().to(at::kDouble) - exact.sum(0)).abs();
      const double terms = static_cast<double>(ranks);
      EXPECT_TRUE((error <= terms * rounding * exact.abs().sum(0)).all().item<bool>())
          << "width " << width << ", round " << round;
    }
  }
}

TEST(TreeAllReduce, RefusesAShardingThatIsNotItsCommunicators) {
  const auto make = [](const Sharding& sharding) {
    TreeAllReduce(test_runtime().world(), sharding, 3, at::kFloat, test_device());
  };
  const int rank = test_runtime().rank(), ranks = test_runtime().size();
  EXPECT_THROW(make({16, rank, ranks + 1, true}), Error);
  EXPECT_THROW(make({ranks + 1, rank, ranks, false}), Error);
  make({ranks + 1, rank, ranks, true});
}

}  // namespace
}  // namespace syncbn
