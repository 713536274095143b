// Training at R ranks against training at one rank, where each rank works alone on a communicator
// of its own; and what a trainer refuses or stops at.
#include "train/trainer.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "support/close.hpp"
#include "support/options_support.hpp"
#include "support/training.hpp"
#include "support/watched_comm.hpp"
#include "train/measurements.hpp"

namespace syncbn {
namespace {

constexpr double kRounding = 1e-10;  // of a short trajectory in float64

struct Case {
  const char* name;
  Settings settings;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

class EqualsOneRank : public testing::TestWithParam<Case> {};

TEST_P(EqualsOneRank, ToRounding) {
  const Job job = job_with(GetParam().settings);
  Trainer together = job.trainer(), alone = job.alone();
  const auto scores = train(together), expected = train(alone);
  for (size_t i = 0; i < expected.size(); ++i) expect_equal(scores[i], expected[i], kRounding);
  expect_equal(copy_of(together), copy_of(alone), kRounding);
  together.replica().check_equal();
  expect_equal(together.evaluate(job.data->validation), alone.evaluate(job.data->validation),
               kRounding);
}

INSTANTIATE_TEST_SUITE_P(
    Trainer, EqualsOneRank,
    testing::Values(
        Case{"None", {{"norm.kind", "none"}}},
        Case{"LayerNorm", {{"norm.kind", "layer"}, {"model.activation", "tanh"}}},
        Case{"SyncBatchNorm", {{"norm.batch", "global"}}},
        Case{"GroupsAcrossRanks",
             {{"train.batch", "24"}, {"norm.batch", "8"}, {"train.drop_last", "true"}}},
        Case{"PostAndOutput", {{"norm.position", "post"}, {"norm.output", "true"}}},
        // Post: a bias right before a norm has a gradient of rounding noise, which Adam magnifies.
        Case{"AdamClipped",
             {{"train.optimizer", "adam"},
              {"train.lr", "0.01"},
              {"train.clip", "0.5"},
              {"norm.position", "post"}}},
        Case{"Dropout", {{"model.dropout", "0.4"}}},
        Case{"DropoutWithoutNorm", {{"model.dropout", "0.4"}, {"norm.kind", "none"}}},
        Case{"EmptyShares",
             {{"train.batch", "2"},
              {"data.limit", "24"},
              {"data.validation", "0.5"},
              {"norm.eval", "batch"}}},
        Case{"OneSamplePerStep",
             {{"train.batch", "1"}, {"data.limit", "5"}, {"norm.kind", "none"}}}),
    [](const auto& given) { return std::string(given.param.name); });

TEST(Trainer, AugmentsWhatIsTrainedOnAndNothingThatIsMeasured) {
  const Job plain = job_with({}), augmented = plain.with({{"data.augment", "crop-flip"}});
  Trainer a = plain.trainer(), b = augmented.trainer();
  expect_equal(a.evaluate(plain.data->train), b.evaluate(plain.data->train), 0);
  EXPECT_GT(std::abs(train(a, 1)[0].loss_sum - train(b, 1)[0].loss_sum), 1);
  EXPECT_GT(largest_difference(copy_of(a), copy_of(b)), 1e-3);
  a.restore(b.state(), b.step());
  a.recompute_statistics();
  b.recompute_statistics();
  expect_equal(copy_of(a), copy_of(b), 0);
  expect_equal(a.evaluate(plain.data->train), b.evaluate(plain.data->train), 0);
}

TEST(Trainer, RerunsAreBitEqual) {
  const Job job = job_with({{"model.dropout", "0.3"}, {"norm.batch", "8"}});
  Trainer first = job.trainer(), second = job.trainer();
  const auto once = train(first), again = train(second);
  for (size_t i = 0; i < once.size(); ++i) {
    EXPECT_EQ(once[i].loss_sum, again[i].loss_sum);
    EXPECT_EQ(once[i].correct, again[i].correct);
  }
  const State a = copy_of(first), b = copy_of(second);
  for (size_t i = 0; i < a.size(); ++i) expect_same_bits(a[i].second, b[i].second, a[i].first);
}

TEST(Trainer, WhatMattersChangesTheResult) {
  const Job job = job_with();
  Trainer reference = job.trainer();
  train(reference);
  const State expected = copy_of(reference);
  for (const Settings& settings : {Settings{{"run.seed", "2"}}, Settings{{"norm.batch", "16"}},
                                   Settings{{"model.dropout", "0.1"}}, Settings{{"seed.init", "2"}},
                                   Settings{{"seed.order", "2"}}}) {
    const Job other = job.with(settings);
    Trainer trainer = other.trainer();
    train(trainer);
    EXPECT_GT(largest_difference(copy_of(trainer), expected), 1e-3)
        << testing::PrintToString(settings);
  }
}

TEST(Trainer, SeedsOfStreamsStandInForTheRuns) {
  const Job job = job_with({{"model.dropout", "0.3"}, {"norm.batch", "8"}});
  const Settings streams = {
      {"run.seed", "9"}, {"seed.init", "1"}, {"seed.order", "1"}, {"seed.noise", "1"}};
  const Job same = job.with(streams), noise = same.with({{"seed.noise", "2"}});
  Trainer trainer = job.trainer(), other = same.trainer(), noisy = noise.trainer();
  for (Trainer* each : {&trainer, &other, &noisy}) train(*each);
  expect_equal(copy_of(other), copy_of(trainer), 0);
  EXPECT_GT(largest_difference(copy_of(noisy), copy_of(trainer)), 1e-3);
}

// The batch, and so its gradient, stays; groups smaller than the batch hold other samples.
TEST(Trainer, GroupingChangesTheGroupsAlone) {
  for (const auto& [norm_batch, changes] : {std::pair{"global", false}, std::pair{"8", true}}) {
    SCOPED_TRACE(norm_batch);
    const Job job = job_with({{"norm.batch", norm_batch}});
    Trainer plain = job.trainer(), dealt = job.with({{"seed.grouping", "4"}}).trainer();
    train(plain);
    train(dealt);
    const double difference = largest_difference(copy_of(dealt), copy_of(plain));
    if (changes) {
      EXPECT_GT(difference, 1e-3);
    } else {
      EXPECT_GT(difference, 0) << "not dealt anew at all";
      EXPECT_LT(difference, kRounding);
    }
  }
}

TEST(Trainer, CountsStepsAndSamples) {
  const Job kept = job_with();
  const Job dropped = kept.with({{"train.drop_last", "true"}});
  const Job limited = kept.with({{"train.max_steps", "13"}});
  const Job none = kept.with({{"train.max_steps", "0"}});
  Trainer trainer = kept.trainer();
  EXPECT_EQ(trainer.steps_per_epoch(), 10);
  EXPECT_EQ(trainer.steps_in_all(), 20);
  EXPECT_EQ(trainer.train_epoch(0)->samples, 301);
  EXPECT_EQ(trainer.step(), 10);

  Trainer without_last = dropped.trainer();
  EXPECT_EQ(without_last.steps_per_epoch(), 9);
  EXPECT_EQ(without_last.train_epoch(0)->samples, 288);

  Trainer stopped = limited.trainer();
  EXPECT_EQ(stopped.steps_in_all(), 13);
  EXPECT_EQ(stopped.train_epoch(0)->samples, 301);
  EXPECT_EQ(stopped.train_epoch(1)->samples, 3 * 32);
  EXPECT_EQ(stopped.step(), 13);

  Trainer untrained = none.trainer();
  EXPECT_EQ(untrained.steps_in_all(), 0);
  EXPECT_EQ(untrained.evaluate(none.data->validation).samples, none.data->validation.size());
}

TEST(Trainer, TellsItsProgressAndItsTimes) {
  const Job job = job_with();
  std::vector<int64_t> training;
  int evaluations = 0;
  Trainer trainer = job.trainer();
  trainer.on_progress([&](const char* phase, int64_t step) {
    if (phase == std::string("training")) training.push_back(step);
    if (phase == std::string("evaluation")) ++evaluations;
  });
  const Score trained = *trainer.train_epoch(0);
  EXPECT_EQ(training, (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(evaluations, 0);
  const Score validated = trainer.evaluate(job.data->validation);
  EXPECT_GE(evaluations, 1);

  MetricsRow before;
  before.epoch = 4;
  before.samples = 1000;
  const MetricsRow row =
      measure(before, trainer, trained, validated, 150.5, *world(), test_device());
  EXPECT_EQ(row.epoch, 5);
  EXPECT_EQ(row.step, 10);
  EXPECT_EQ(row.samples, 1301);
  EXPECT_DOUBLE_EQ(row.samples_per_s, 150.5);
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

// Two norm layers of 12 and 9 features: 2C+1 numbers forward, 2C backward, in float64.
TEST(Trainer, CountsItsTraffic) {
  const int64_t ranks = world()->size(), steps = 10;
  const Job job = job_with();
  for (const bool canonical : {true, false}) {
    Trainer trainer = job.with({{"run.reduce", canonical ? "canonical" : "fast"}}).trainer();
    trainer.take_times();
    train(trainer, 1);
    const StepTimes times = trainer.take_times();
    if (ranks == 1) {
      EXPECT_EQ(times.norm_traffic.calls + times.gradient_traffic.calls, 0);
      EXPECT_EQ(times.norm_traffic.bytes + times.gradient_traffic.bytes, 0);
      continue;
    }
    EXPECT_EQ(times.norm_traffic.calls, steps * 4);
    const int64_t one_slot = (2 * 12 + 1 + 2 * 12 + 2 * 9 + 1 + 2 * 9) * 8;
    EXPECT_GE(times.norm_traffic.bytes, steps * one_slot);
    EXPECT_EQ(times.norm_traffic.bytes % one_slot, 0);
    const int64_t gradient = trainer.replica().gradients().numel() * 8;
    EXPECT_GE(times.gradient_traffic.bytes, steps * gradient);
    if (!canonical) {
      EXPECT_EQ(times.gradient_traffic.calls, steps);
      EXPECT_LT(times.gradient_traffic.bytes, steps * (gradient + 64 * 8));
    } else {
      EXPECT_GE(times.gradient_traffic.calls, steps * 2);
    }
    EXPECT_EQ(trainer.take_times().gradient_traffic.calls, 0);
  }
}

TEST(Trainer, AFlippedBitIsFound) {
  const Job job = job_with();
  for (const char* victim : {"0.weight", "3.bias", "4.running_var", "1.num_batches_tracked"}) {
    Trainer trainer = job.trainer();
    train(trainer, 1);
    trainer.replica().check_equal();
    for (auto& [name, value] : trainer.replica().state_dict()) {
      if (name != victim || !on_last_rank()) continue;
      at::Tensor host = value.cpu();  // on the CPU the value itself
      *static_cast<char*>(host.mutable_data_ptr()) ^= 1;
      value.copy_(host);
    }
    if (world()->size() == 1) continue;
    expect_error([&] { trainer.replica().check_equal(); }, ExitCode::kInvariant,
                 {concat("'", victim, "'"), concat("on rank ", world()->size() - 1, ";")});
  }
}

TEST(Trainer, NotANumberOnOneRankStopsAll) {
  const Job data = job_with();
  for (const char* kind : {"batch", "layer", "none"}) {
    SCOPED_TRACE(kind);
    const Job job = data.with({{"norm.kind", kind}});
    Trainer trainer = job.trainer();
    train(trainer, 1);
    if (on_last_rank()) {
      trainer.replica().parameters()[3] = std::numeric_limits<double>::quiet_NaN();
    }
    const int64_t found = test_device().is_cuda() ? 20 : 11;  // on CUDA at the end of the epoch
    expect_error([&] { trainer.train_epoch(1); }, ExitCode::kInvariant,
                 {concat("nan at step ", found), "train.lr"});
    EXPECT_EQ(trainer.step(), found);
  }
}

// What a study measures of a healthy network whose running statistics are of no use.
TEST(Trainer, AScoreMayBeNotANumberAndAnEvaluationMayNot) {
  const Job job = job_with();
  Trainer trainer = job.trainer();
  train(trainer, 1);
  auto statistics = trainer.running_statistics();
  for (at::Tensor& of_layer : statistics) {
    of_layer.fill_(std::numeric_limits<double>::quiet_NaN());
  }
  trainer.set_running_statistics(statistics);
  EXPECT_TRUE(std::isnan(trainer.score(job.data->validation, Statistics::kRunning).loss_sum));
  EXPECT_TRUE(std::isfinite(trainer.score(job.data->validation, Statistics::kBatch).loss_sum));
  expect_error([&] { trainer.evaluate(job.data->validation); }, ExitCode::kInvariant,
               {"evaluation loss is nan"});
}

// NCCL looks for failed peers where the host waits (Communicator::wait), so all waits must go
// there.
TEST(Trainer, WaitsForTheDeviceThroughItsCommunicator) {
  const Job job = job_with({{"norm.eval", "recomputed"}});
  const auto comm = std::make_shared<WatchedComm>();
  // The loss is looked at as seldom as on a device, so that these numbers are a device's too.
  Trainer trainer(comm, job.options, *job.data, test_device(), /*look_every=*/50);
  const auto waits_of = [&](const std::function<void()>& call) {
    const int64_t before = comm->waits;
    call();
    return comm->waits - before;
  };
  trainer.start_epoch(0);
  EXPECT_EQ(waits_of([&] { trainer.train_step(0); }), 1) << "more would hold the device up";
  EXPECT_GE(waits_of([&] { trainer.replica().reduced_loss(); }), 1);
  EXPECT_GE(waits_of([&] { trainer.train_epoch(0); }), 9 + 2) << "steps, loss and score";
  EXPECT_GE(waits_of([&] { trainer.take_met(); }), 1);
  const int64_t norms = 2, batches = 10, evaluations = 1;
  EXPECT_GE(waits_of([&] { trainer.evaluate(job.data->validation); }),
            batches + norms + evaluations + 1);
  comm->fails_at = comm->waits + 4;
  expect_error([&] { trainer.train_epoch(1); }, ExitCode::kSystem, {"a peer is gone"});
}

TEST(Trainer, DivergenceStopsAllRanks) {
  const Job job = job_with({{"norm.kind", "none"}, {"train.lr", "1e200"}});
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

void expect_refused(const Job& job, const Settings& settings,
                    const std::vector<std::string>& parts) {
  SCOPED_TRACE(testing::PrintToString(settings));
  expect_error([&] { job.with(settings).trainer(); }, ExitCode::kUsage, parts);
}

TEST(Trainer, WithAndWithoutNormTheLinearLayersBeginAlike) {
  const Job job = job_with();
  const auto linears = [&](const Settings& settings) {
    Trainer trainer = job.with(settings).trainer();
    std::vector<at::Tensor> found;
    for (const auto& [name, value] : trainer.replica().state_dict()) {
      if (value.dim() == 2) found.push_back(value.clone());
    }
    return found;
  };
  const auto expected = linears({{"norm.kind", "none"}});
  ASSERT_EQ(expected.size(), 3U);
  for (const Settings& settings :
       {Settings{{"norm.batch", "global"}}, Settings{{"norm.kind", "layer"}},
        Settings{{"norm.kind", "none"}, {"model.dropout", "0.5"}}}) {
    const auto found = linears(settings);
    ASSERT_EQ(found.size(), 3U);
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(at::equal(found[i], expected[i])) << i;
  }
  EXPECT_FALSE(at::equal(linears({{"run.seed", "2"}})[1], expected[1]));
}

TEST(Trainer, RefusesABatchThatDoesNotSuitTheData) {
  const Job job = job_with();
  const std::string ranks = std::to_string(world()->size());
  expect_refused(job, {{"train.batch", "302"}}, {"train.batch", "302", "301"});
  expect_refused(job, {{"train.batch", "100"}},
                 {"norm.batch = global", "one sample", "train.drop_last"});
  expect_refused(job, {{"norm.batch", "4"}}, {"norm.batch = 4", "one sample", "train.drop_last"});
  expect_refused(job, {{"norm.batch", "local"}, {"train.batch", ranks}}, {"norm.batch = local"});
  const Job dropped = job.with({{"train.batch", "100"}, {"train.drop_last", "true"}});
  EXPECT_EQ(dropped.trainer().steps_per_epoch(), 3);
  Dataset few = *job.data;
  few.train.rows.resize(99);
  expect_error([&] { check_options(dropped.options, few, 1); }, ExitCode::kUsage, {"100", "99"});
  const Job without = job.with({{"train.batch", "100"}, {"norm.kind", "none"}});
  EXPECT_EQ(without.trainer().steps_per_epoch(), 4);
}

TEST(Trainer, ARefusedValueFromAFileHasTheFilesCode) {
  Job job = job_with({{"train.batch", "302"}});
  job.options.from_file = {{"data.limit", "test.ini: line 2"}, {"train.batch", "test.ini: line 3"}};
  expect_error([&] { job.trainer(); }, ExitCode::kConfig, {"train.batch"});
}

}  // namespace
}  // namespace syncbn
