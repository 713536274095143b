// The trainer at R ranks against itself at one rank (each rank trains alone on a communicator of
// its own) and, for evaluation, against a recount by LibTorch from the state dict on the whole
// data.
#include "train/trainer.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "support/close.hpp"
#include "support/mpi_main.hpp"
#include "support/options_support.hpp"
#include "train/measurements.hpp"

namespace syncbn {
namespace {

using Settings = std::vector<std::pair<std::string, std::string>>;
using State = std::vector<std::pair<std::string, at::Tensor>>;

constexpr double kRounding = 1e-10;  // of a short trajectory in float64

CommPtr world() {
  return test_runtime().world();
}
bool on_last_rank() {
  return world()->rank() + 1 == world()->size();
}

/// 301 samples in batches of 32, the last of 13; 784-12-9-10 in float64 by SGD.
Options options_with(const Settings& settings) {
  Options options;
  for (const auto& [key, value] : Settings{{"data.name", "synthetic"},
                                           {"data.limit", "301"},
                                           {"model.hidden", "12,9"},
                                           {"train.batch", "32"},
                                           {"train.epochs", "2"},
                                           {"train.optimizer", "sgd"},
                                           {"train.lr", "0.1"},
                                           {"run.dtype", "float64"}}) {
    set_option(options, key, value);
  }
  for (const auto& [key, value] : settings) set_option(options, key, value);
  return options;
}

/// Options, their data, and trainers of both.
struct Job {
  explicit Job(const Settings& settings = {})
      : options(options_with(settings)), data(load_dataset(test_runtime(), options)) {}

  Trainer trainer() const { return {world(), options, data, at::kCPU}; }
  /// One rank, all of each batch.
  Trainer alone() const { return {world()->split(world()->rank(), 0), options, data, at::kCPU}; }

  Options options;
  Dataset data;
};

std::vector<Score> train(Trainer& trainer, int64_t epochs = 2) {
  std::vector<Score> scores;
  for (int64_t epoch = 0; epoch < epochs; ++epoch) scores.push_back(trainer.train_epoch(epoch));
  return scores;
}

State copy_of(const Trainer& trainer) {
  State state = const_cast<Trainer&>(trainer).replica().state_dict();
  for (auto& [name, value] : state) value = value.clone();
  return state;
}

void expect_equal(const State& actual, const State& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_EQ(actual[i].first, expected[i].first);
    expect_close(actual[i].second, expected[i].second, tolerance, expected[i].first);
  }
}

double largest_difference(const State& a, const State& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, relative_error(a[i].second, b[i].second));
  }
  return largest;
}

void expect_equal(const Score& actual, const Score& expected, double tolerance) {
  EXPECT_EQ(actual.samples, expected.samples);
  EXPECT_EQ(actual.correct, expected.correct);
  EXPECT_NEAR(actual.loss_sum / expected.loss_sum, 1, tolerance);
}

// ---- training ----

void expect_equals_one_rank(const Settings& settings) {
  SCOPED_TRACE(testing::PrintToString(settings));
  const Job job(settings);
  Trainer together = job.trainer(), alone = job.alone();
  const auto scores = train(together), expected = train(alone);
  for (size_t i = 0; i < expected.size(); ++i) expect_equal(scores[i], expected[i], kRounding);
  expect_equal(copy_of(together), copy_of(alone), kRounding);
  together.replica().check_equal();
  expect_equal(together.evaluate(job.data.validation), alone.evaluate(job.data.validation),
               kRounding);
}

TEST(Trainer, RerunsAreBitEqual) {
  const Job job({{"model.dropout", "0.3"}, {"norm.batch", "8"}});
  Trainer first = job.trainer(), second = job.trainer();
  const auto once = train(first), again = train(second);
  for (size_t i = 0; i < once.size(); ++i) {
    EXPECT_EQ(once[i].loss_sum, again[i].loss_sum);
    EXPECT_EQ(once[i].correct, again[i].correct);
  }
  const State a = copy_of(first), b = copy_of(second);
  for (size_t i = 0; i < a.size(); ++i) expect_same_bits(a[i].second, b[i].second, a[i].first);
}

TEST(Trainer, EqualsOneRank) {
  expect_equals_one_rank({{"norm.kind", "none"}});
  expect_equals_one_rank({{"norm.kind", "layer"}, {"model.activation", "tanh"}});
  expect_equals_one_rank({{"norm.batch", "global"}});
  expect_equals_one_rank({{"train.batch", "24"}, {"norm.batch", "8"}, {"train.drop_last", "true"}});
  expect_equals_one_rank({{"norm.position", "post"}, {"norm.output", "true"}});
  expect_equals_one_rank(
      {{"train.optimizer", "adam"}, {"train.lr", "0.01"}, {"train.clip", "0.5"}});
}

TEST(Trainer, DropsTheSameUnitsAtAnyRankCount) {
  expect_equals_one_rank({{"model.dropout", "0.4"}});
  expect_equals_one_rank({{"model.dropout", "0.4"}, {"norm.kind", "none"}});
}

TEST(Trainer, EmptySharesAreExact) {
  expect_equals_one_rank({{"train.batch", "2"}, {"data.limit", "12"}, {"norm.eval", "batch"}});
  expect_equals_one_rank({{"train.batch", "1"}, {"data.limit", "5"}, {"norm.kind", "none"}});
}

TEST(Trainer, WhatMattersChangesTheResult) {
  const Job job;
  Trainer reference = job.trainer();
  train(reference);
  const State expected = copy_of(reference);
  for (const Settings& settings : {Settings{{"run.seed", "2"}}, Settings{{"norm.batch", "16"}},
                                   Settings{{"model.dropout", "0.1"}}}) {
    const Job other(settings);
    Trainer trainer = other.trainer();
    train(trainer);
    EXPECT_GT(largest_difference(copy_of(trainer), expected), 1e-3)
        << testing::PrintToString(settings);
  }
}

TEST(Trainer, CountsStepsAndSamples) {
  const Job kept, dropped({{"train.drop_last", "true"}}), limited({{"train.max_steps", "13"}}),
      none({{"train.max_steps", "0"}});
  Trainer trainer = kept.trainer();
  EXPECT_EQ(trainer.steps_per_epoch(), 10);
  EXPECT_EQ(trainer.steps_in_all(), 20);
  EXPECT_EQ(trainer.train_epoch(0).samples, 301);
  EXPECT_EQ(trainer.step(), 10);

  Trainer without_last = dropped.trainer();
  EXPECT_EQ(without_last.steps_per_epoch(), 9);
  EXPECT_EQ(without_last.train_epoch(0).samples, 288);

  Trainer stopped = limited.trainer();
  EXPECT_EQ(stopped.steps_in_all(), 13);
  EXPECT_EQ(stopped.train_epoch(0).samples, 301);
  EXPECT_EQ(stopped.train_epoch(1).samples, 3 * 32);
  EXPECT_EQ(stopped.step(), 13);

  Trainer untrained = none.trainer();
  EXPECT_EQ(untrained.steps_in_all(), 0);
  EXPECT_EQ(untrained.evaluate(none.data.validation).samples, none.data.validation.size());
}

TEST(Trainer, TellsItsProgressAndItsTimes) {
  const Job job;
  std::vector<int64_t> training;
  int evaluations = 0;
  Trainer trainer(world(), job.options, job.data, at::kCPU, [&](const char* phase, int64_t step) {
    if (phase == std::string("training")) training.push_back(step);
    if (phase == std::string("evaluation")) ++evaluations;
  });
  const Score trained = trainer.train_epoch(0);
  EXPECT_EQ(training, (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(evaluations, 0);
  const Score validated = trainer.evaluate(job.data.validation);
  EXPECT_GE(evaluations, 1);

  MetricsRow before;
  before.epoch = 4;
  before.samples = 1000;
  const MetricsRow row = measure(before, trainer, trained, validated, 2.0, *world(), at::kCPU);
  EXPECT_EQ(row.epoch, 5);
  EXPECT_EQ(row.step, 10);
  EXPECT_EQ(row.samples, 1301);
  EXPECT_DOUBLE_EQ(row.samples_per_s, 301 / 2.0);
  EXPECT_DOUBLE_EQ(row.val_accuracy + row.val_error, 1);
  EXPECT_DOUBLE_EQ(row.lr, 0.1);
  for (const double seconds : {row.data_s, row.forward_s, row.backward_s, row.norm_comm_s,
                               row.gradient_comm_s, row.optimizer_s}) {
    EXPECT_GT(seconds, 0);
    EXPECT_LT(seconds, 30);
  }
  EXPECT_EQ(row.rank_peak_memory_bytes.size(), static_cast<size_t>(world()->size()));
  EXPECT_GT(row.peak_memory_bytes, int64_t{1} << 20);
  EXPECT_EQ(trainer.take_times().forward, 0) << "measure did not take the times";
}

// ---- evaluation, recounted by LibTorch ----

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
  const Job job({{"data.limit", "0"}, {"train.max_steps", "20"}});  // 2,000 samples: several calls
  Trainer trainer = job.trainer();
  train(trainer, 1);
  Recount recount(trainer);
  for (const Split* split : {&job.data.train, &job.data.validation}) {
    const Score expected = score_of(recount.logits(inputs_of(*split), false), *split);
    expect_equal(trainer.evaluate(*split), expected, 1e-12);
    EXPECT_GT(expected.accuracy(), 0.3);  // trained: neither all wrong nor all alike
  }
}

TEST(Evaluation, BatchStatisticsAreThoseOfWholeBatches) {
  for (const int64_t group : {32, 8}) {
    SCOPED_TRACE(group);
    const Job job({{"norm.eval", "batch"}, {"norm.batch", std::to_string(group)}});
    Trainer trainer = job.trainer();
    train(trainer, 1);
    const State before = copy_of(trainer);
    Recount recount(trainer);
    std::vector<at::Tensor> logits;
    for (const at::Tensor& batch : inputs_of(job.data.validation).split(32)) {
      for (const at::Tensor& rows : batch.split(group))
        logits.push_back(recount.logits(rows, true));
    }
    expect_equal(trainer.evaluate(job.data.validation),
                 score_of(at::cat(logits), job.data.validation), 1e-12);
    EXPECT_EQ(largest_difference(copy_of(trainer), before), 0);
  }
}

TEST(Evaluation, RecomputedStatisticsAreThoseOfTheTrainingSet) {
  for (const int64_t group : {32, 8}) {
    for (const bool unbiased : {true, false}) {
      SCOPED_TRACE(testing::Message() << "M = " << group << (unbiased ? ", unbiased" : ", biased"));
      // drop_last concerns training alone: its short batch would hold a group of 5 here.
      const Job job({{"norm.eval", "recomputed"},
                     {"norm.batch", std::to_string(group)},
                     {"norm.running_variance", unbiased ? "unbiased" : "biased"}});
      Trainer trainer = job.trainer();
      train(trainer, 1);
      const State before = copy_of(trainer);
      Recount recount(trainer);
      const double by_running =
          score_of(recount.logits(inputs_of(job.data.validation), false), job.data.validation)
              .loss_sum;
      recount.recompute(inputs_of(job.data.train), 32, group, unbiased);
      const Score expected =
          score_of(recount.logits(inputs_of(job.data.validation), false), job.data.validation);
      EXPECT_GT(std::abs(by_running / expected.loss_sum - 1), 1e-3) << "no difference to find";

      expect_equal(trainer.evaluate(job.data.validation), expected, 1e-11);
      EXPECT_EQ(largest_difference(copy_of(trainer), before), 0)
          << "the running statistics did not come back";
      trainer.recompute_statistics();
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

TEST(Evaluation, RefusesASplitOfOtherData) {
  const Job job;
  Trainer trainer = job.trainer();
  const Split other = job.data.validation;
  EXPECT_THROW(trainer.evaluate(other), Error);
}

// ---- what goes wrong ----

TEST(Trainer, AFlippedBitIsFound) {
  const Job job;
  for (const char* victim : {"0.weight", "3.bias", "4.running_var", "1.num_batches_tracked"}) {
    Trainer trainer = job.trainer();
    train(trainer, 1);
    trainer.replica().check_equal();
    for (auto& [name, value] : trainer.replica().state_dict()) {
      if (name == victim && on_last_rank()) *static_cast<char*>(value.mutable_data_ptr()) ^= 1;
    }
    if (world()->size() == 1) continue;
    expect_error([&] { trainer.replica().check_equal(); }, ExitCode::kInvariant,
                 {concat(victim, " "), concat("rank ", world()->size() - 1, " differs")});
  }
}

TEST(Trainer, NotANumberOnOneRankStopsAllInThatStep) {
  for (const char* kind : {"batch", "layer", "none"}) {
    SCOPED_TRACE(kind);
    const Job job({{"norm.kind", kind}});
    Trainer trainer = job.trainer();
    train(trainer, 1);
    if (on_last_rank()) {
      trainer.replica().parameters().data_ptr<double>()[3] =
          std::numeric_limits<double>::quiet_NaN();
    }
    expect_error([&] { trainer.train_epoch(1); }, ExitCode::kInvariant,
                 {"nan at step 11", "train.lr"});
    EXPECT_EQ(trainer.step(), 11);
  }
}

TEST(Trainer, DivergenceStopsAllRanks) {
  const Job job({{"norm.kind", "none"}, {"train.lr", "1e200"}});
  Trainer trainer = job.trainer();
  try {
    trainer.train_epoch(0);
    ADD_FAILURE() << "trained on at a rate of 1e200";
  } catch (const UsageError& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(ExitCode::kInvariant));
  }
  EXPECT_EQ(world()->max_on_host(trainer.step()), trainer.step());
  EXPECT_EQ(world()->max_on_host(-trainer.step()), -trainer.step());
}

void expect_refused(const Settings& settings, const std::vector<std::string>& parts) {
  SCOPED_TRACE(testing::PrintToString(settings));
  const Job job(settings);
  expect_error([&] { job.trainer(); }, ExitCode::kUsage, parts);
}

TEST(Trainer, RefusesABatchThatDoesNotSuitTheData) {
  const std::string ranks = std::to_string(world()->size());
  expect_refused({{"train.batch", "302"}}, {"train.batch = 302", "301"});
  expect_refused({{"train.batch", "100"}},
                 {"norm.batch = global", "one sample", "train.drop_last"});
  expect_refused({{"norm.batch", "4"}}, {"norm.batch = 4", "one sample", "train.drop_last"});
  expect_refused({{"norm.batch", "local"}, {"train.batch", ranks}}, {"norm.batch = local"});
  const Job dropped({{"train.batch", "100"}, {"train.drop_last", "true"}});
  EXPECT_EQ(dropped.trainer().steps_per_epoch(), 3);
  const Job without({{"train.batch", "100"}, {"norm.kind", "none"}});
  EXPECT_EQ(without.trainer().steps_per_epoch(), 4);
}

TEST(Trainer, ARefusedValueFromAFileHasTheFilesCode) {
  Job job({{"train.batch", "302"}});
  job.options.from_file["train.batch"] = "test.ini: line 3";
  expect_error([&] { job.trainer(); }, ExitCode::kConfig, {"train.batch"});
}

}  // namespace
}  // namespace syncbn
