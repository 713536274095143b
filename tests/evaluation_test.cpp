// Evaluation by running, recomputed and batch statistics against a recount by LibTorch from the
// state dict on the whole data.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "support/close.hpp"
#include "support/training.hpp"

namespace syncbn {
namespace {

/// The network as LibTorch computes it from a state dict.
class Recount {
 public:
  explicit Recount(Trainer& trainer, double eps = 1e-5) : eps_(eps) {
    for (const auto& layer : trainer.network().layers()) types_.push_back(layer->type());
    for (const auto& [name, value] : copy_of(trainer)) state_[name] = value;
  }

  at::Tensor& entry(size_t layer, const std::string& name) {
    return state_.at(std::to_string(layer) + "." + name);
  }

  /// x (n, 784) → logits (n, 10). `by_batch`: x is one statistics group; else by running
  /// statistics. `received`: what each norm layer got is appended to its list.
  at::Tensor logits(at::Tensor x, bool by_batch,
                    std::map<size_t, std::vector<at::Tensor>>* received = nullptr) {
    for (size_t i = 0; i < types_.size(); ++i) {
      if (types_[i] == "Linear") x = at::linear(x, entry(i, "weight"), entry(i, "bias"));
      if (types_[i] == "ReLU") x = x.relu();
      if (types_[i] != "BatchNorm1d") continue;
      if (received != nullptr) (*received)[i].push_back(x);
      x = at::batch_norm(x, entry(i, "weight"), entry(i, "bias"), entry(i, "running_mean"),
                         entry(i, "running_var"), by_batch, /*momentum=*/0, eps_, false);
    }
    return x;
  }

  /// Running statistics ← population moments of what each norm layer receives from the samples x
  /// in batches of `batch`, each in groups of `group` with statistics of its own.
  void recompute(const at::Tensor& x, int64_t batch, int64_t group, bool unbiased) {
    std::map<size_t, std::vector<at::Tensor>> received;
    for (const at::Tensor& part : x.split(batch)) {
      for (const at::Tensor& rows : part.split(group)) logits(rows, true, &received);
    }
    for (const auto& [layer, parts] : received) {
      const at::Tensor all = at::cat(parts);
      entry(layer, "running_mean") = all.mean(0);
      entry(layer, "running_var") = all.var(0, unbiased);
    }
  }

 private:
  double eps_;
  std::vector<std::string> types_;
  std::map<std::string, at::Tensor> state_;
};

at::Tensor rows_of(const at::Tensor& stored, const Split& split) {
  return stored.index_select(0, torch::tensor(split.rows));
}

at::Tensor inputs_of(const Split& split) {
  return rows_of(split.images, split).to(torch::kDouble) / 255;
}

Score score_of(const at::Tensor& logits, const Split& split) {
  const at::Tensor labels = rows_of(split.labels, split);
  Score score;
  score.samples = split.size();
  score.correct = (logits.argmax(1) == labels).sum().item<int64_t>();
  score.loss_sum = at::cross_entropy_loss(logits, labels, {}, at::Reduction::Sum).item<double>();
  return score;
}

TEST(Evaluation, RunningStatisticsCountEachSampleOnce) {
  const Job job =
      job_with({{"data.limit", "0"}, {"train.max_steps", "20"}});  // 2,000 samples: several calls
  Trainer trainer = job.trainer();
  train(trainer, 1);
  Recount recount(trainer);
  for (const Split* split : {&job.data->train, &job.data->validation}) {
    const Score expected = score_of(recount.logits(inputs_of(*split), false), *split);
    expect_equal(trainer.evaluate(*split), expected, 1e-12);
    EXPECT_GT(expected.accuracy(), 0.3);  // trained: neither all wrong nor all alike
  }
}

TEST(Evaluation, BatchStatisticsAreThoseOfWholeBatches) {
  for (const int64_t group : {32, 8}) {
    SCOPED_TRACE(group);
    const Job job = job_with({{"norm.eval", "batch"}, {"norm.batch", std::to_string(group)}});
    Trainer trainer = job.trainer();
    train(trainer, 1);
    const State before = copy_of(trainer);
    Recount recount(trainer);
    std::vector<at::Tensor> logits;
    for (const at::Tensor& batch : inputs_of(job.data->validation).split(32)) {
      for (const at::Tensor& rows : batch.split(group))
        logits.push_back(recount.logits(rows, true));
    }
    expect_equal(trainer.evaluate(job.data->validation),
                 score_of(at::cat(logits), job.data->validation), 1e-12);
    EXPECT_EQ(largest_difference(copy_of(trainer), before), 0);
  }
}

TEST(Evaluation, RecomputedStatisticsAreThoseOfTheTrainingSet) {
  for (const int64_t group : {32, 8}) {
    for (const bool unbiased : {true, false}) {
      SCOPED_TRACE(testing::Message() << "M = " << group << (unbiased ? ", unbiased" : ", biased"));
      const Job job = job_with({{"norm.eval", "recomputed"},
                                {"norm.batch", std::to_string(group)},
                                {"norm.running_variance", unbiased ? "unbiased" : "biased"}});
      Trainer trainer = job.trainer();
      train(trainer, 1);
      const State before = copy_of(trainer);
      Recount recount(trainer);
      const double by_running =
          score_of(recount.logits(inputs_of(job.data->validation), false), job.data->validation)
              .loss_sum;
      recount.recompute(inputs_of(job.data->train), 32, group, unbiased);
      const Score expected =
          score_of(recount.logits(inputs_of(job.data->validation), false), job.data->validation);
      EXPECT_GT(std::abs(by_running / expected.loss_sum - 1), 1e-3) << "no difference to find";

      expect_equal(trainer.evaluate(job.data->validation), expected, 1e-11);
      EXPECT_EQ(largest_difference(copy_of(trainer), before), 0)
          << "the running statistics did not come back";
      expect_equal(trainer.evaluate(job.data->validation, /*keep_statistics=*/true), expected,
                   1e-11);
      for (size_t layer : {1, 4}) {
        for (const char* name : {"running_mean", "running_var"}) {
          Recount now(trainer);
          expect_close(now.entry(layer, name), recount.entry(layer, name), 1e-12, name);
        }
      }
      trainer.replica().check_equal();
    }
  }
}

TEST(Evaluation, ScoresTheFirstSamplesOfAnySplit) {
  const Job job = job_with({{"data.validation", "0.3"}, {"norm.batch", "8"}});
  Trainer trainer = job.trainer();
  train(trainer, 1);
  Recount recount(trainer);
  const Dataset& data = *job.data;
  for (const Split* split : {&data.train, &data.validation, &data.test}) {
    for (const int64_t samples : {40, 72, -1}) {
      SCOPED_TRACE(samples);
      Split part = *split;
      if (samples > 0) part.rows.resize(samples);
      expect_equal(trainer.score(*split, Statistics::kRunning, samples),
                   score_of(recount.logits(inputs_of(part), false), part), 1e-12);
      std::vector<at::Tensor> logits;
      for (const at::Tensor& batch : inputs_of(part).split(32)) {
        for (const at::Tensor& rows : batch.split(8)) logits.push_back(recount.logits(rows, true));
      }
      expect_equal(trainer.score(*split, Statistics::kBatch, samples),
                   score_of(at::cat(logits), part), 1e-12);
    }
  }
}

// 97 samples in batches of 32 leave one over; it is normalised with the 31 before it.
TEST(Evaluation, ALastSampleIsNotAlone) {
  const Job job = job_with();
  Trainer trainer = job.trainer();
  train(trainer, 1);
  Recount recount(trainer);
  Split part = job.data->test;
  part.rows.resize(97);
  const at::Tensor inputs = inputs_of(part);
  std::vector<at::Tensor> logits;
  for (int64_t first = 0; first < 96; first += 32) {
    logits.push_back(recount.logits(inputs.narrow(0, first, 32), true));
  }
  logits.push_back(recount.logits(inputs.narrow(0, 65, 32), true).narrow(0, 31, 1));
  expect_equal(trainer.score(job.data->test, Statistics::kBatch, 97),
               score_of(at::cat(logits), part), 1e-12);
  EXPECT_TRUE(std::isfinite(trainer.score(job.data->test, Statistics::kBatch, 1).loss_sum));
}

TEST(Evaluation, StatisticsOfTheFirstSamplesAndBack) {
  const Job job = job_with({{"norm.batch", "8"}});
  Trainer trainer = job.trainer();
  train(trainer, 1);
  const State before = copy_of(trainer);
  const std::vector<at::Tensor> kept = trainer.running_statistics();
  Recount recount(trainer);
  Split part = job.data->train;
  part.rows.resize(100);
  recount.recompute(inputs_of(part), 32, 8, /*unbiased=*/true);
  trainer.recompute_statistics(100);
  for (size_t layer : {1, 4}) {
    for (const char* name : {"running_mean", "running_var"}) {
      Recount now(trainer);
      expect_close(now.entry(layer, name), recount.entry(layer, name), 1e-12, name);
    }
  }
  trainer.set_running_statistics(kept);
  EXPECT_EQ(largest_difference(copy_of(trainer), before), 0);
}

TEST(Evaluation, RefusesASplitOfOtherData) {
  const Job job = job_with();
  Trainer trainer = job.trainer();
  const Split other = job.data->validation;
  EXPECT_THROW(trainer.evaluate(other), Error);
}

}  // namespace
}  // namespace syncbn
