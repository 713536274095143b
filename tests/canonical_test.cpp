// The bits: what R ranks train is what one rank trains, to the last bit, for every kind of
// normalization, optimizer and dtype, for any M, with dropout, and with a short last batch.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "support/training.hpp"

namespace syncbn {
namespace {

struct Case {
  std::string name;
  Settings settings;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.name;
}

// 301 samples in batches of 48, the last of 13: fewer than shards.
Settings base() {
  return {{"train.batch", "48"},
          {"run.dtype", "float32"},
          {"run.shards", "16"},
          {"run.reduce", "canonical"},
          {"model.hidden", "37,20"}};
}

class Canonical : public testing::TestWithParam<Case> {};

void expect_same_bits(const Score& actual, const Score& expected) {
  EXPECT_EQ(actual.loss_sum, expected.loss_sum);
  EXPECT_EQ(actual.correct, expected.correct);
  EXPECT_EQ(actual.samples, expected.samples);
}

TEST_P(Canonical, RanksAndThreadsChangeNoBit) {
  Settings settings = base();
  settings.insert(settings.end(), GetParam().settings.begin(), GetParam().settings.end());
  const Job job = job_with(settings);
  Trainer together = job.trainer(), alone = job.alone();

  const int threads = at::get_num_threads();
  const auto scores = train(together);
  const Score score = together.evaluate(job.data->validation);
  together.replica().check_equal();
  if (!on_last_rank()) return;  // all ranks hold the same: one of them compares
  at::set_num_threads(2);
  const auto expected_scores = train(alone);
  const Score expected = alone.evaluate(job.data->validation);
  at::set_num_threads(threads);

  expect_equal(copy_of(together), copy_of(alone), 0);
  for (size_t e = 0; e < scores.size(); ++e) expect_same_bits(scores[e], expected_scores[e]);
  expect_same_bits(score, expected);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, Canonical,
    testing::Values(Case{"None", {{"norm.kind", "none"}}}, Case{"Sync", {{"norm.batch", "global"}}},
                    Case{"SyncAdam", {{"train.optimizer", "adam"}, {"train.lr", "0.01"}}},
                    Case{"SyncAdamDouble", {{"train.optimizer", "adam"}, {"run.dtype", "float64"}}},
                    Case{"SyncClipped", {{"train.clip", "0.5"}, {"train.momentum", "0.9"}}},
                    Case{"Local", {{"norm.batch", "local"}, {"train.drop_last", "true"}}},
                    Case{"UnionOfShards", {{"norm.batch", "24"}}},
                    Case{"PieceOfAShard", {{"norm.batch", "3"}, {"train.drop_last", "true"}}},
                    Case{"AcrossShards", {{"norm.batch", "8"}}},
                    Case{"Regrouped", {{"norm.batch", "8"}, {"seed.grouping", "5"}}},
                    Case{"Recomputed", {{"norm.eval", "recomputed"}}},
                    Case{"ByBatch", {{"norm.eval", "batch"}, {"norm.batch", "16"}}},
                    Case{"LayerNorm", {{"norm.kind", "layer"}, {"train.optimizer", "adamw"}}},
                    Case{"DropoutSigmoid",
                         {{"model.dropout", "0.4"}, {"model.activation", "sigmoid"}}},
                    Case{"Augmented", {{"data.augment", "crop-flip"}}},
                    Case{"TanhAfter", {{"norm.position", "post"}, {"model.activation", "tanh"}}},
                    Case{"Output", {{"norm.output", "true"}, {"norm.momentum", "0.3"}}},
                    Case{"OddShards", {{"run.shards", "11"}}}),
    [](const auto& parameter) { return parameter.param.name; });

// Without the fixed order ranks do change bits; else the tests above would show nothing.
TEST(Fast, RanksChangeBits) {
  Settings settings = base();
  settings.emplace_back("run.reduce", "fast");
  const Job job = job_with(settings);
  Trainer together = job.trainer(), alone = job.alone();
  train(together);
  train(alone);
  if (world()->size() > 1) {
    EXPECT_GT(largest_difference(copy_of(together), copy_of(alone)), 0);
  } else {
    EXPECT_EQ(largest_difference(copy_of(together), copy_of(alone)), 0);
  }
}

// The number of shards is a part of the result.
TEST(CanonicalSums, ShardsChangeBits) {
  const Job job = job_with(base());
  Trainer some = job.alone(), others = job.with({{"run.shards", "4"}}).alone();
  if (!on_last_rank()) return;  // the same on each
  train(some);
  train(others);
  const double difference = largest_difference(copy_of(some), copy_of(others));
  EXPECT_GT(difference, 0);
  EXPECT_LT(difference, 1e-3);
}

// A layer wide enough for the matrix library to run threads and to cut its sums.
TEST(CanonicalSums, WideLayers) {
  Settings settings = base();
  for (const auto& setting :
       Settings{{"model.hidden", "512,300"}, {"train.batch", "256"}, {"train.epochs", "1"}}) {
    settings.push_back(setting);
  }
  const Job job = job_with(settings);
  Trainer together = job.trainer(), alone = job.alone();
  train(together, 1);
  together.replica().check_equal();
  if (!on_last_rank()) return;
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  train(alone, 1);
  at::set_num_threads(threads);
  expect_equal(copy_of(together), copy_of(alone), 0);
}

}  // namespace
}  // namespace syncbn
