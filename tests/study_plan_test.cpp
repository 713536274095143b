// The plan of a study: the choice of a learning rate from outcomes, the calibration, the
// fingerprint.
#include <gtest/gtest.h>

#include <set>

#include "study/calibration.hpp"
#include "support/options_support.hpp"

namespace syncbn {
namespace {

using Texts = std::vector<std::string>;

Experiment study(const std::string& text) {
  return parse_study(CommandLine(), text, "test.ini").at(0);
}

/// One cell with these settings, and outcomes that a test makes up.
struct Tuned {
  explicit Tuned(const std::string& settings) {
    plan.experiments = {study("[experiment a]\nstudy.seeds = 1 | 2\n" + settings)};
    plan.cells = cells_of(plan.experiments[0]);
  }
  CellTrials run() {
    asked.clear();
    return trials_of(plan, 0, [&](const Trial& trial) -> const Outcome* {
      asked.insert(trial.name());
      const auto found = outcomes.find(trial.name());
      return found == outcomes.end() ? nullptr : &found->second;
    });
  }
  /// Makes the tuning trials of a rate end with these accuracies (or, below 0, diverge).
  void end(double lr, double first, double second) {
    int64_t seed = 101;
    for (const double accuracy : {first, second}) {
      Outcome& outcome = outcomes[Trial{0, Stage::kTune, lr, seed++}.name()];
      outcome.diverged = accuracy < 0;
      outcome.val_accuracy = accuracy;
      outcome.val_loss = 1 - accuracy;
    }
  }
  void reach(double lr, std::optional<int64_t> first, std::optional<int64_t> second) {
    end(lr, 0.9, 0.9);
    outcomes[Trial{0, Stage::kTune, lr, 101}.name()].first_target_steps = first;
    outcomes[Trial{0, Stage::kTune, lr, 102}.name()].first_target_steps = second;
  }

  Plan plan;
  std::map<std::string, Outcome> outcomes;
  std::set<std::string> asked;
};

Texts names(const std::vector<Trial>& trials) {
  Texts all;
  for (const Trial& trial : trials) all.push_back(trial.name());
  return all;
}

TEST(Tuning, WithoutRatesThereAreFinalTrialsAlone) {
  Tuned cell("train.lr = 0.25\n");
  const CellTrials known = cell.run();
  EXPECT_TRUE(known.settled);
  EXPECT_FALSE(known.tuning);
  EXPECT_EQ(names(known.trials), (Texts{"final-seed1", "final-seed2"}));
  EXPECT_EQ(cell.plan.options_of(known.trials[1]).train.lr, 0.25);
  EXPECT_EQ(cell.plan.options_of(known.trials[1]).run.seed, 2);
}

TEST(Tuning, ChoosesByTheMedianOnceAllHaveEnded) {
  Tuned cell("tune.lr = 1 | 0.1 | 0.01\n");
  EXPECT_EQ(names(cell.run().trials),
            (Texts{"tune-lr0.01-seed101", "tune-lr0.01-seed102", "tune-lr0.1-seed101",
                   "tune-lr0.1-seed102", "tune-lr1-seed101", "tune-lr1-seed102"}));
  cell.end(0.01, 0.90, 0.90);
  cell.end(0.1, 0.97, 0.95);
  EXPECT_FALSE(cell.run().settled);
  cell.end(1, 0.99, -1);  // diverged once: its median is infinite
  const CellTrials known = cell.run();
  ASSERT_TRUE(known.settled);
  EXPECT_EQ(known.tuning->chosen, 0.1);
  EXPECT_EQ(known.tuning->edge, "none");
  EXPECT_FALSE(known.tuning->fallback);
  ASSERT_EQ(known.tuning->curve.size(), 3U);
  EXPECT_DOUBLE_EQ(*known.tuning->curve[1].median, 0.96);
  EXPECT_FALSE(known.tuning->curve[2].median);
  EXPECT_EQ(known.tuning->curve[2].diverged, 1);
  ASSERT_EQ(known.trials.size(), 8U) << "those that tuned, and the final ones";
  EXPECT_EQ(known.trials[7].name(), "final-seed2");
  EXPECT_EQ(cell.plan.options_of(known.trials[7]).train.lr, 0.1);
}

TEST(Tuning, FewestStepsWinAndCensoredOnesAreInfinite) {
  Tuned cell("tune.lr = 0.01 | 0.1 | 1\ntune.criterion = steps_to_target\n");
  cell.reach(0.01, 500, 700);
  cell.reach(0.1, 10, std::nullopt);
  cell.reach(1, 400, 900);
  const CellTrials known = cell.run();
  EXPECT_EQ(known.tuning->chosen, 0.01);
  EXPECT_EQ(known.tuning->edge, "low");
  EXPECT_EQ(*known.tuning->curve[0].median, 600);
  EXPECT_FALSE(known.tuning->curve[1].median);
}

TEST(Tuning, FallsBackOnAccuracyWhereNoneReachesTheTarget) {
  Tuned cell("tune.lr = 0.01 | 0.1 | 1\ntune.criterion = steps_to_target\n");
  cell.end(0.01, 0.5, 0.5);
  cell.end(0.1, 0.6, 0.7);
  cell.end(1, -1, -1);
  const CellTrials known = cell.run();
  EXPECT_EQ(known.tuning->chosen, 0.1);
  EXPECT_TRUE(known.tuning->fallback);
}

TEST(Tuning, GoesOnBeyondAnEdgeAsFarAsItMay) {
  Tuned cell("tune.lr = 0.01 | 0.03 | 0.1\ntune.extend = 2\n");
  cell.end(0.01, 0.5, 0.5);
  cell.end(0.03, 0.6, 0.6);
  cell.end(0.1, 0.7, 0.7);
  EXPECT_FALSE(cell.run().settled);
  EXPECT_EQ(cell.asked.count("tune-lr0.3333-seed101"), 1U);
  cell.end(0.3333, 0.8, 0.8);
  EXPECT_FALSE(cell.run().settled);
  cell.end(1.111, 0.9, 0.9);
  const CellTrials known = cell.run();
  ASSERT_TRUE(known.settled) << "two beyond the edge, and no more";
  EXPECT_EQ(known.tuning->chosen, 1.111);
  EXPECT_EQ(known.tuning->edge, "high");
  EXPECT_EQ(known.tuning->curve.size(), 5U);
}

TEST(Tuning, RunsTheNeighboursToo) {
  Tuned cell("tune.lr = 0.01 | 0.1 | 1\ntune.neighbours = true\n");
  cell.end(0.01, 0.5, 0.5);
  cell.end(0.1, 0.9, 0.9);
  cell.end(1, 0.7, 0.7);
  Texts after = names(cell.run().trials);
  after.erase(after.begin(), after.begin() + 6);  // those that tuned
  EXPECT_EQ(after, (Texts{"final-seed1", "near-lr0.01-seed1", "near-lr1-seed1", "final-seed2",
                          "near-lr0.01-seed2", "near-lr1-seed2"}));
}

TEST(Calibration, SeparatesWhatAStepCostsFromItsOperations) {
  const auto expect = [](const Speed& speed, double step_s, double operation_s) {
    EXPECT_NEAR(speed.step_s, step_s, 1e-15);
    EXPECT_NEAR(speed.operation_s, operation_s, 1e-15);
  };
  expect(speed_of(1e6, 3e-3, 9e6, 11e-3), 2e-3, 1e-9);
  expect(speed_of(1e6, 3e-3, 1e6, 3e-3), 0, 3e-9);
  // A slope of noise: 1 % more operations in twice the time, and more of them in less.
  expect(speed_of(1e6, 1e-3, 1.01e6, 2e-3), 0, 2e-3 / 1.01e6);
  expect(speed_of(1e6, 2e-3, 4e6, 1e-3), 1e-3, 0);
  // A slope that would leave less than nothing for the step.
  expect(speed_of(1e6, 1e-4, 4e6, 4e-3), 0, 1e-9);
}

TEST(Calibration, SaysWhatMakesItDoubtful) {
  const std::vector<Block> quiet = {{1e-3, 1}, {1.1e-3, 0.97}}, busy = {{1e-3, 1}, {3e-3, 0.4}};
  EXPECT_TRUE(doubts_of(quiet, 1, {}).empty());
  EXPECT_TRUE(doubts_of(quiet, 2, {1.2e-3, 1}).empty());
  const auto other_programs = doubts_of(busy, 1, {});
  ASSERT_EQ(other_programs.size(), 1U);
  EXPECT_NE(other_programs[0].find("other programs took the cores"), std::string::npos);
  EXPECT_NE(other_programs[0].find("40 %"), std::string::npos);
  const auto threads = doubts_of(quiet, 2, {1e-4, 1});
  ASSERT_EQ(threads.size(), 1U);
  EXPECT_NE(threads[0].find("on 2 threads a step took 10 times as long as on one: give "
                            "--run.threads 1"),
            std::string::npos);
}

TEST(Plan, FingerprintIsOfWhatDecidesTheResults) {
  const auto of = [](const std::string& settings) {
    Plan plan;
    plan.cells = cells_of(study("[experiment a]\n" + settings));
    return plan.fingerprint();
  };
  const std::string same = of("train.epochs = 1\n");
  EXPECT_EQ(of("train.epochs = 1\ndata.dir = elsewhere\nrun.threads = 1\nstudy.title = t\n"), same);
  for (const char* other :
       {"train.epochs = 2\n", "train.epochs = 1\nstudy.seeds = 1\n",
        "train.epochs = 1\nmeasure.layers = last\n", "train.epochs = 1\ntrain.batch = 64 | 32\n"}) {
    EXPECT_NE(of(other), same) << other;
  }
}

}  // namespace
}  // namespace syncbn
