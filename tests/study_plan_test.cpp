// Study files, the product of their axes, and the choice of a learning rate from outcomes.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "study/calibration.hpp"
#include "support/options_support.hpp"

namespace syncbn {
namespace {

using Texts = std::vector<std::string>;
using Settings = std::vector<std::pair<std::string, std::string>>;

std::vector<Experiment> study(const std::string& text, const Settings& settings = {}) {
  CommandLine line;
  line.settings = settings;
  return parse_study(line, text, "test.ini");
}

std::vector<Cell> cells(const std::string& text, const Settings& settings = {}) {
  return cells_of(study(text, settings).at(0));
}

void expect_refused(const std::string& text, ExitCode code, const Texts& parts) {
  SCOPED_TRACE(text);
  expect_error(
      [&] {
        for (const Experiment& experiment : study(text)) cells_of(experiment);
      },
      code, parts);
}

TEST(List, TakesValuesAndRanges) {
  EXPECT_EQ(parse_list("k", "16 | 32 |64"), (Texts{"16", "32", "64"}));
  EXPECT_EQ(parse_list("k", "7"), (Texts{"7"}));
  EXPECT_EQ(parse_list("k", "1 .. 4"), (Texts{"1", "2", "3", "4"}));
  EXPECT_EQ(parse_list("k", "0 .. 1 by 0.25"), (Texts{"0", "0.25", "0.5", "0.75", "1"}));
  EXPECT_EQ(parse_list("k", "-2 .. 0"), (Texts{"-2", "-1", "0"}));
  EXPECT_EQ(parse_list("k", "16 .. 8192 by *4"), (Texts{"16", "64", "256", "1024", "4096"}));
  EXPECT_EQ(parse_list("k", "16 .. 64 by *2 | 100"), (Texts{"16", "32", "64", "100"}));
  EXPECT_TRUE(parse_list("k", "").empty());
}

// 10^(-3 … 0.75) in quarter decades: 16 points, the last one not lost to rounding.
TEST(List, FactorsKeepFourDigits) {
  const auto rates = parse_numbers("tune.lr", "0.001 .. 5.624 by *1.77828");
  ASSERT_EQ(rates.size(), 16U);
  for (size_t i = 0; i < rates.size(); ++i) {
    const double exact = std::pow(10, -3 + 0.25 * static_cast<double>(i));
    EXPECT_NEAR(rates[i] / exact, 1, 5e-4) << i;
  }
  EXPECT_EQ(write_value(rates[1]), "0.001778");
}

TEST(List, RefusesWhatIsNoRange) {
  for (const char* text :
       {"1 .. x", "5 .. 1", "1 .. 5 by 0", "1 .. 5 by *1", "0 .. 5 by *2", "1 .. 5 by",
        "1 .. 1000000", "x .. 5", "1 .. 10000 | 10001", "1 .. 9000000000000000000 by *10"}) {
    SCOPED_TRACE(text);
    expect_error([&] { parse_list("train.batch", text); }, ExitCode::kUsage, {"train.batch", text});
  }
  expect_error([] { parse_integers("study.seeds", "1 | 2.5"); }, ExitCode::kUsage,
               {"study.seeds", "whole numbers"});
}

// Whoever writes two ends means more than one value.
TEST(List, ARangeOfOneValueIsRefused) {
  for (const char* text : {"0.01 .. 1", "1 .. 3 by 5", "32 .. 100 by *4", "0.1 | 1 .. 1.5"}) {
    SCOPED_TRACE(text);
    expect_error([&] { parse_list("tune.lr", text); }, ExitCode::kUsage,
                 {"tune.lr", "more than one value", " by *2"});
  }
  EXPECT_EQ(parse_list("study.seeds", "3 .. 3"), (Texts{"3"})) << "one value on purpose";
}

TEST(List, CommasAreSaidToBeBars) {
  const std::string says = "'0.1 | 0.3' (a shell needs the quotes)";
  expect_error([] { parse_numbers("tune.lr", "0.1,0.3"); }, ExitCode::kUsage, {"tune.lr", says});
  expect_error([] { parse_integers("study.seeds", "1, 2"); }, ExitCode::kUsage, {"'1 | 2'"});
}

constexpr const char* kStudy = R"(
[train]
epochs = 7
[study]
seeds = 1 .. 3
[tune]
lr = 0.01 | 0.1
[measure]
targets = 0.05 | 0.02
[experiment steps]     # a comment
train.batch = 32 | 64
norm.kind & norm.batch = none & global | batch & 16
[experiment other]
train.epochs = 2
model.hidden = 64,32
tune.lr =
)";

TEST(StudyFile, AxesFormTheirProduct) {
  const auto experiments = study(kStudy);
  ASSERT_EQ(experiments.size(), 2U);
  const auto product = cells_of(experiments[0]);
  std::vector<std::string> names;
  for (const Cell& cell : product) names.push_back(cell.folder());
  EXPECT_EQ(names, (Texts{"steps/train.batch=32,norm.kind=none,norm.batch=global",
                          "steps/train.batch=32,norm.kind=batch,norm.batch=16",
                          "steps/train.batch=64,norm.kind=none,norm.batch=global",
                          "steps/train.batch=64,norm.kind=batch,norm.batch=16"}));
  const TrialOptions& last = product.back().options;
  EXPECT_EQ(last.train.train.batch, 64);
  EXPECT_EQ(last.train.norm.batch, "16");
  EXPECT_EQ(last.train.train.epochs, 7);
  EXPECT_EQ(last.study.seeds, "1 .. 3");
  EXPECT_EQ(last.study.lr, "0.01 | 0.1");
  EXPECT_EQ(last.train.seed.split, 1) << "trials share the data";
}

TEST(StudyFile, AnExperimentOverridesTheBase) {
  const auto other = cells_of(study(kStudy)[1]);
  ASSERT_EQ(other.size(), 1U);
  EXPECT_EQ(other[0].name, "all");
  EXPECT_EQ(other[0].options.train.train.epochs, 2);
  EXPECT_EQ(other[0].options.train.model.hidden, "64,32");
  EXPECT_EQ(other[0].options.study.lr, "");
  EXPECT_EQ(other[0].options.study.targets, "0.05 | 0.02");
}

TEST(StudyFile, TheCommandLineReplacesLines) {
  const Settings settings = {{"train.batch", "128"}, {"study.seeds", "9"}, {"train.epochs", "1"}};
  const auto experiments = study(kStudy, settings);
  const auto product = cells_of(experiments[0]);
  ASSERT_EQ(product.size(), 2U);
  EXPECT_EQ(product[0].name, "norm.kind=none,norm.batch=global");
  EXPECT_EQ(product[0].options.train.train.batch, 128);
  EXPECT_EQ(product[0].options.study.seeds, "9");
  EXPECT_EQ(cells_of(experiments[1])[0].options.train.train.epochs, 1);
  EXPECT_EQ(cells(kStudy, {{"train.batch", "8 .. 32 by *2"}}).size(), 6U) << "an axis of its own";
  expect_error(
      [] {
        study(kStudy, {{"norm.batch", "32"}});
      },
      ExitCode::kConfig, {"test.ini: line 12", "norm.kind & norm.batch", "together"});
}

TEST(StudyFile, NamesOfCellsAreNamesOfFolders) {
  const auto product = cells("[experiment a]\nmodel.hidden = 8,4 | 16\ndata.scale = unit | half\n");
  EXPECT_EQ(product[0].name, "model.hidden=8x4,data.scale=unit");
  std::string many = "[experiment a]\nmodel.hidden = 8 | " + std::string(300, '1');
  for (size_t i = 0; i < 300; i += 4) many[many.size() - 1 - i] = ',';
  expect_error([&] { cells(many); }, ExitCode::kConfig, {"model.hidden"});
  const auto long_names = cells("[experiment a]\nmodel.hidden = 8 | " +
                                std::string("1024,1024,1024,1024,1024,1024,1024,1024,1024,1024,") +
                                "1024,1024,1024,1024,1024,1024,1024,1024,1024,1024,1024,1024\n");
  EXPECT_LE(long_names[1].name.size(), 120U);
}

TEST(StudyFile, RefusesWithTheLine) {
  const auto bad = ExitCode::kConfig;
  const std::string experiment = "[experiment a]\n";
  expect_refused("", bad, {"test.ini", "[experiment NAME]"});
  expect_refused("[train]\nepochs = 1\n", bad, {"[experiment NAME]", "syncbn-train"});
  expect_refused("[experiment]\n", bad, {"line 1", "an experiment's name"});
  expect_refused(experiment + "train.batch = 32, 128\n", bad, {"line 2", "'32 | 128'"});
  expect_refused(experiment + "norm.kind = none, batch\n", bad, {"'none | batch'"});
  expect_refused(experiment + "measure.per_epoch = 2,5\n", bad, {"line 2", "point", "'2 | 5'"});
  expect_refused(experiment + "measure.layers = last ; remark\n", bad, {"begins with ' #'"});
  expect_refused(experiment + "train.lr = 0.01 .. 1\n", bad, {"line 2", "more than one value"});
  expect_refused(experiment + "train.batch & norm.batch =\n", bad, {"line 2", "found none"});
  expect_refused("[trane]\n", bad, {"test.ini: line 1", "'trane'", "train"});
  expect_refused("[measure]\ntarget = 1\n" + experiment, bad, {"line 2", "did you mean"});
  expect_refused(experiment + "train.bach = 1 | 2\n", bad,
                 {"test.ini: line 2", "train.bach", "train.batch"});
  expect_refused(experiment + "train.batch = 1 | x\n", bad, {"test.ini: line 2", "'x'"});
  expect_refused(experiment + "train.batch = 8 .. 2\n", bad, {"test.ini: line 2", "8 .. 2"});
  expect_refused(experiment + "train.batch = 8 | 8\n", bad, {"test.ini: line 2", "twice"});
  expect_refused(experiment + "train.batch & norm.batch = 8 & 2 | 4\n", bad,
                 {"test.ini: line 2", "2 values", "found 1"});
  expect_refused(experiment + "train.batch = 8 | 4\ntrain.batch & norm.batch = 8 & 2\n", bad,
                 {"[experiment a]", "train.batch"});
  expect_refused(experiment + "run.seed = 1 | 2\n", ExitCode::kUsage, {"run.seed", "study.seeds"});
  expect_refused("[norm]\neval = batch\n" + experiment, bad, {"line 2", "norm.eval", "remove"});
  expect_refused(experiment + "run.checkpoint_steps = 5\n", bad, {"line 2", "does nothing"});
  expect_refused(experiment + "run.threads = 1 | 2\n", bad, {"run.threads", "whole job"});
  expect_refused(experiment + "train.epochs = 1\n[experiment b]\nrun.device = cpu\n", bad,
                 {"[experiment b]", "run.device", "once"});
  expect_refused("[experiment a/b]\n", bad, {"line 1", "letters"});
  expect_refused(experiment + "train.epochs = 1\n" + experiment, bad, {"line 3", "second"});
  expect_refused(experiment + "study.seeds = 1 | 1\n", bad, {"study.seeds", "different"});
  expect_refused(experiment + "tune.lr = 0.1 | 0.10\n", bad, {"tune.lr", "different"});
  expect_refused(experiment + "tune.lr = 0.1\ntune.seeds = 3 .. 4\n", bad,
                 {"tune.seeds", "other seeds", "1 .. 3"});
  expect_refused(experiment + "study.stop = never\n", bad, {"study.stop", "'never'", "plateau"});
  expect_refused(experiment + "measure.targets = 3\n", bad, {"measure.targets", "(0, 1)"});
  expect_refused(experiment + "measure.targets = 0.02 | 0.03\n", bad,
                 {"measure.targets", "falling"});
  expect_refused(experiment + "measure.noise_scale = 1\n", bad, {"measure.noise_scale", "2 batch"});
  expect_refused(experiment +
                     "tune.lr = 0.1\ntune.criterion = steps_to_target\n"
                     "measure.targets =\n",
                 bad, {"measure.targets"});
  expect_refused(experiment + "train.lr = 0.1 | -1\n", bad,
                 {"[experiment a]", "train.lr=-1", "train.lr"});
}

TEST(StudyFile, RangesNeedNoSpaces) {
  EXPECT_EQ(cells("[experiment a]\ntrain.batch = 32..128 by *2\n").size(), 3U);
}

// 8,192 values on each of five axes: 2^65 cells, which 64 bits count as none.
TEST(StudyFile, TooManyCellsAreRefusedBeforeTheyAreMade) {
  std::string axes = "[experiment a]\n";
  for (const char* key : {"train.epochs", "train.max_steps", "train.warmup_steps",
                          "train.lr_reference", "measure.population"}) {
    axes += concat(key, " = ", key[0] == 'm' ? 2 : 1, " .. 8192\n");
  }
  expect_refused(axes, ExitCode::kConfig, {"[experiment a]", "more than 100000 cells"});
  std::string experiments;  // each of them within the limit
  for (int i = 0; i < 20; ++i)
    experiments += concat("[experiment a", i, "]\ntrain.epochs = 1 .. 9999\n");
  expect_refused(experiments, ExitCode::kConfig, {"100000 cells in all experiments"});
}

// Whatever is multiplied with steps, samples or ranks has a bound.
TEST(StudyFile, NumbersHaveBounds) {
  const std::string most = "9223372036854775807\n";
  for (const char* key :
       {"study.ranks", "tune.extend", "measure.every_steps", "measure.full_every",
        "measure.train_samples", "measure.population", "measure.noise_scale", "measure.units"}) {
    expect_refused(concat("[experiment a]\n", key, " = ", most), ExitCode::kConfig,
                   {key, "a whole number from"});
    expect_refused(concat("[experiment a]\n", key, " = -1\n"), ExitCode::kConfig, {key, "'-1'"});
  }
  StudyOptions rarely;
  rarely.per_epoch = 1e-300;
  EXPECT_GT(evaluation_steps(rarely, 1), int64_t{1} << 39);
}

TEST(StudyFile, SeedsThatLookLikeANumberOfRuns) {
  const auto note = [](const std::string& settings) {
    return seeds_note(study("[experiment a]\n" + settings).at(0).base.study);
  };
  EXPECT_EQ(note("study.seeds = 5\n"),
            "study.seeds = 5 is one run, with seed 5; 1 .. 5 are 5 runs");
  EXPECT_EQ(note("study.seeds = 1\n"), "");
  EXPECT_EQ(note("study.seeds = 1 .. 5\n"), "");
  EXPECT_EQ(note("tune.seeds = 4\n"), "") << "nothing is tuned";
  EXPECT_NE(note("tune.lr = 0.1\ntune.seeds = 4\n").find("tune.seeds = 4 is one run"),
            std::string::npos);
  EXPECT_EQ(note("tune.lr = 0.1\ntune.seeds = 101\n"), "");
}

TEST(StudyFile, TrialsAreCounted) {
  StudyOptions options;
  options.seeds = "1 .. 5";
  EXPECT_EQ(planned_trials(options), 5);
  options.lr = "0.1 | 0.2 | 0.3";
  options.tune_seeds = "101 | 102";
  EXPECT_EQ(planned_trials(options), 11);
  EXPECT_EQ(most_trials(options), 11);
  options.neighbours = true;
  EXPECT_EQ(most_trials(options), 21);
}

// ---- the choice of a rate ----

/// One cell with these settings, and outcomes that a test makes up.
struct Tuned {
  explicit Tuned(const std::string& settings) {
    plan.experiments = study("[experiment a]\nstudy.seeds = 1 | 2\n" + settings);
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
    plan.cells = cells("[experiment a]\n" + settings);
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
