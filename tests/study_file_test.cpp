// Study files: their lists and ranges, the product of their axes, and what is refused.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "study/plan.hpp"
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
  EXPECT_EQ(parse_list("k", "1000000 .. 1000002"), (Texts{"1000000", "1000001", "1000002"}));
  EXPECT_EQ(parse_list("k", "262144 .. 1048575 by *2"), (Texts{"262144", "524288"}));
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

}  // namespace
}  // namespace syncbn
