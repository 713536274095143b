// Small trainings on synthetic data, on all ranks together or on each rank alone.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "support/close.hpp"
#include "support/mpi_main.hpp"
#include "train/trainer.hpp"

namespace syncbn {

using Settings = std::vector<std::pair<std::string, std::string>>;
using State = std::vector<std::pair<std::string, at::Tensor>>;

inline CommPtr world() {
  return test_runtime().world();
}
inline bool on_last_rank() {
  return world()->rank() + 1 == world()->size();
}

/// 301 samples in batches of 32, the last of 13; 784-12-9-10 in float64 by SGD.
inline Options options_with(const Settings& settings) {
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
  /// With these settings besides; the data stay those of this job.
  Job with(const Settings& settings) const {
    Job other = *this;
    for (const auto& [key, value] : settings) set_option(other.options, key, value);
    return other;
  }
  Trainer trainer() const { return {world(), options, *data, test_device()}; }
  /// One rank, all of each batch.
  Trainer alone() const {
    return {world()->split(world()->rank(), 0), options, *data, test_device()};
  }

  Options options;
  std::shared_ptr<const Dataset> data;
};

/// Collective.
inline Job job_with(const Settings& settings = {}) {
  const Options options = options_with(settings);
  return {options, std::make_shared<Dataset>(load_dataset(test_runtime(), options))};
}

inline std::vector<Score> train(Trainer& trainer, int64_t epochs = 2) {
  std::vector<Score> scores;
  for (int64_t epoch = 0; epoch < epochs; ++epoch) scores.push_back(*trainer.train_epoch(epoch));
  return scores;
}

/// Copies on the CPU.
inline State copy_of(Trainer& trainer) {
  State state = trainer.replica().state_dict();
  for (auto& [name, value] : state) value = value.cpu().clone();
  return state;
}

inline void expect_equal(const State& actual, const State& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_EQ(actual[i].first, expected[i].first);
    EXPECT_LE(difference(actual[i].second, expected[i].second), tolerance) << expected[i].first;
  }
}

inline double largest_difference(const State& a, const State& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, difference(a[i].second, b[i].second));
  }
  return largest;
}

inline void expect_equal(const Score& actual, const Score& expected, double tolerance) {
  EXPECT_EQ(actual.samples, expected.samples);
  EXPECT_EQ(actual.correct, expected.correct);
  EXPECT_NEAR(actual.loss_sum / expected.loss_sum, 1, tolerance);
}

}  // namespace syncbn
