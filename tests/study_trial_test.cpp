// A trial: what is measured when, how it ends, and that all of it is the same on any ranks.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <sstream>

#include "base/options_text.hpp"
#include "study/study_file.hpp"
#include "study/trial.hpp"
#include "support/mpi_main.hpp"

namespace syncbn {
namespace {

using Row = std::map<std::string, std::string>;

struct Case {
  Options options;
  StudyOptions study;
};

Case case_of(const std::string& settings) {
  const auto experiments =
      parse_study({},
                  "[data]\nname = synthetic\nvalidation = 0.25\nlimit = 600\n"
                  "[model]\nhidden = 12,9\n"
                  "[train]\nbatch = 32\nepochs = 3\noptimizer = sgd\nlr = 0.1\n"
                  "[measure]\ntrain_samples = 100\npopulation = 200\n"
                  "[experiment a]\n" +
                      settings,
                  "test.ini");
  const Cell cell = cells_of(experiments.at(0)).at(0);
  return {cell.options.train, cell.options.study};
}

const Dataset& data_of(const Options& options) {
  static DataSets sets(test_runtime());
  return sets.of(options);
}

TrialResult run(const Case& what, Stage stage = Stage::kFinal, bool alone = false,
                int64_t look_every = 0) {
  const CommPtr world = test_runtime().world();
  const CommPtr comm = alone ? world->split(world->rank(), 0) : world;
  return run_trial({comm, comm, test_device(), look_every}, what.options, what.study, stage,
                   data_of(what.options), {});
}

// The trial twice: with a look at the loss after each step, and after each 50th, as on a device.
// A case has 15 steps an epoch, whose ends alone are looked at then.
std::array<TrialResult, 2> run_with_few_looks_too(const Case& what) {
  return {run(what, Stage::kFinal, false, 1), run(what, Stage::kFinal, false, 50)};
}

std::vector<Row> rows(const TrialResult& result, const std::string& table) {
  for (const auto& [name, csv] : result.tables) {
    if (name != table) continue;
    std::istringstream lines(csv);
    std::string header, line;
    std::getline(lines, header);
    const auto columns = split(header, ',');
    std::vector<Row> all;
    while (std::getline(lines, line)) {
      const auto fields = split(line, ',');
      EXPECT_EQ(fields.size(), columns.size()) << line;
      for (size_t i = 0; i < columns.size(); ++i) all.resize(all.size() + (i == 0 ? 1 : 0));
      for (size_t i = 0; i < columns.size(); ++i) all.back()[columns[i]] = fields[i];
    }
    return all;
  }
  ADD_FAILURE() << "no " << table;
  return {};
}

std::vector<std::string> column(const std::vector<Row>& table, const std::string& name) {
  std::vector<std::string> values;
  for (const Row& row : table) values.push_back(row.at(name));
  return values;
}

using Texts = std::vector<std::string>;

// 450 training samples: 15 steps an epoch, the last of 2; evaluations each 10.
TEST(Trial, EvaluatesAsOftenAsItIsTold) {
  const auto table =
      rows(run(case_of("norm.batch = 16\ntrain.drop_last = true\n")), "measurements.csv");
  EXPECT_EQ(column(table, "step"), (Texts{"10", "20", "30", "40", "42"}));
  EXPECT_EQ(column(table, "samples"), (Texts{"320", "640", "960", "1280", "1344"}));
  const auto sparse =
      rows(run(case_of("measure.every_steps = 25\ntrain.drop_last = true\n")), "measurements.csv");
  EXPECT_EQ(column(sparse, "step"), (Texts{"25", "42"}));
  const auto first =
      rows(run(case_of("measure.every_steps = 25\nmeasure.first = true\n")), "measurements.csv");
  EXPECT_EQ(column(first, "step"), (Texts{"0", "25", "45"}));
  EXPECT_EQ(first[0].at("met_loss"), "");
  EXPECT_NE(first[0].at("test_batch_loss"), "");
  EXPECT_EQ(first[2].at("samples"), "1350") << "the short last batches too";
}

TEST(Trial, FullEvaluationsHoldAllSplitsAndStatistics) {
  for (const TrialResult& result : run_with_few_looks_too(case_of("measure.full_every = 2\n"))) {
    const auto table = rows(result, "measurements.csv");
    ASSERT_EQ(table.size(), 5U);
    for (size_t i = 0; i < table.size(); ++i) {
      const bool full = i == 1 || i == 3 || i == 4;
      for (const auto& [name, value] : table[i]) {
        const bool always = name.find('_') == std::string::npos || name == "met_loss" ||
                            name.find("val_running") == 0;
        EXPECT_EQ(value.empty(), !always && !full) << name << " of row " << i;
      }
    }
  }
}

TEST(Trial, TuningTrialsAreMeasuredOnTheValidationSplitAlone) {
  const TrialResult result = run(case_of("measure.layers = full\n"), Stage::kTune);
  EXPECT_EQ(result.tables.size(), 1U);
  EXPECT_EQ(rows(result, "measurements.csv").back().at("test_running_loss"), "");
  EXPECT_NE(rows(result, "measurements.csv").back().at("val_running_loss"), "");
}

TEST(Trial, ANetWithoutBatchNormHasOneStatistic) {
  const auto last = rows(run(case_of("norm.kind = none\n")), "measurements.csv").back();
  for (const char* split : {"train", "val", "test"}) {
    const std::string loss = last.at(concat(split, "_running_loss"));
    EXPECT_FALSE(loss.empty());
    EXPECT_EQ(last.at(concat(split, "_batch_loss")), loss);
    EXPECT_EQ(last.at(concat(split, "_recomputed_loss")), loss);
  }
}

// Every column but the seconds has the same text in both.
void expect_same(const TrialResult& first, const TrialResult& second) {
  ASSERT_EQ(first.tables.size(), second.tables.size());
  for (size_t t = 0; t < first.tables.size(); ++t) {
    const std::string& name = first.tables[t].first;
    auto a = rows(first, name), b = rows(second, name);
    ASSERT_EQ(a.size(), b.size()) << name;
    for (size_t i = 0; i < a.size(); ++i) {
      a[i].erase("seconds");
      b[i].erase("seconds");
      EXPECT_EQ(a[i], b[i]) << name << " row " << i;
    }
  }
}

TEST(Trial, IsTheSameOnAnyRanks) {
  for (const char* settings :
       {"norm.batch = global\n", "norm.batch = 8\nmodel.dropout = 0.2\n", "norm.kind = none\n"}) {
    SCOPED_TRACE(settings);
    const Case what = case_of(std::string(settings) +
                              "measure.layers = full\nmeasure.noise_scale = 3\n"
                              "measure.noise_law = 2 | 8\nmeasure.units = 2\n"
                              "measure.full_every = 2\n");
    expect_same(run(what), run(what, Stage::kFinal, /*alone=*/true));
  }
}

// The host looks seldom at the loss of a device. What is measured, and how a trial ends, may not
// follow from that.
TEST(Trial, FewLooksAtTheLossChangeNoResult) {
  for (const char* settings : {"measure.first = true\ntrain.epochs = 2\n",
                               "measure.every_steps = 7\nstudy.stop = plateau\n",
                               "train.lr = 30\nnorm.kind = none\ntrain.epochs = 2\n"}) {
    SCOPED_TRACE(settings);
    const auto [often, seldom] = run_with_few_looks_too(case_of(settings));
    expect_same(often, seldom);
    for (const char* key : {"status", "stopped", "reason", "steps", "final"}) {
      EXPECT_EQ(often.metadata.at(key), seldom.metadata.at(key)) << key;
    }
  }
}

TEST(Trial, MetLossIsTheMeanOfTheBatchesSinceTheLastEvaluation) {
  const Case what = case_of("measure.every_steps = 15\ntrain.max_steps = 15\nnorm.kind = none\n");
  Trainer trainer(test_runtime().world(), what.options, data_of(what.options), test_device());
  const double expected = trainer.train_epoch(0)->loss();
  for (const TrialResult& result : run_with_few_looks_too(what)) {
    const auto measured = rows(result, "measurements.csv");
    ASSERT_EQ(measured.size(), 1U);
    EXPECT_NEAR(std::stod(measured[0].at("met_loss")), expected, 1e-6);
  }
}

TEST(Trial, ATargetIsReachedByTwoEvaluationsInTurn) {
  const TrialResult result =
      run(case_of("measure.targets = 0.99 | 0.2 | 0.000001\ntrain.epochs = 20\n"));
  const auto& targets = result.metadata.at("targets");
  EXPECT_EQ(targets[0].at("steps"), 10);
  EXPECT_EQ(targets[0].at("samples"), 320);
  EXPECT_NEAR(targets[0].at("epochs").get<double>(), 10.0 / 15, 1e-12);
  EXPECT_TRUE(targets[2].at("steps").is_null()) << "censored";
  const auto table = rows(result, "measurements.csv");
  const auto error = [&](size_t i) { return 1 - std::stod(table[i].at("val_running_accuracy")); };
  size_t i = 0;
  while (i + 1 < table.size() && !(error(i) <= 0.2 && error(i + 1) <= 0.2)) ++i;
  ASSERT_LT(i + 1, table.size()) << "the case must reach it";
  EXPECT_EQ(std::to_string(targets[1].at("steps").get<int64_t>()), table[i].at("step"));
}

TEST(Trial, StopsAtItsTargetsOrOnAPlateau) {
  const TrialResult target =
      run(case_of("measure.targets = 0.99\nstudy.stop = target\ntrain.epochs = 50\n"));
  EXPECT_EQ(target.metadata.at("stopped"), "target");
  EXPECT_EQ(target.metadata.at("steps"), 20) << "the second evaluation below it";
  EXPECT_NE(rows(target, "measurements.csv").back().at("test_batch_loss"), "");
  const TrialResult plateau =
      run(case_of("train.lr = 1e-12\nstudy.stop = plateau\ntrain.epochs = 50\nnorm.kind = none\n"));
  EXPECT_EQ(plateau.metadata.at("stopped"), "plateau");
  EXPECT_LE(plateau.metadata.at("epochs"), 14);
  EXPECT_EQ(run(case_of("")).metadata.at("stopped"), "budget");
}

TEST(Trial, DivergenceIsAResult) {
  for (const TrialResult& infinite :
       run_with_few_looks_too(case_of("train.lr = 1e30\nnorm.kind = none\n"))) {
    EXPECT_EQ(infinite.metadata.at("status"), "DIVERGED");
    EXPECT_EQ(infinite.metadata.at("stopped"), "divergence");
    EXPECT_NE(infinite.metadata.at("reason").get<std::string>().find("loss is"), std::string::npos);
    EXPECT_TRUE(infinite.metadata.at("final").at("val_accuracy").is_null());
  }
  for (const TrialResult& large :
       run_with_few_looks_too(case_of("train.lr = 30\nnorm.kind = none\ntrain.epochs = 2\n"))) {
    EXPECT_EQ(large.metadata.at("status"), "DIVERGED");
    EXPECT_NE(large.metadata.at("reason").get<std::string>().find("times the first step's"),
              std::string::npos)
        << large.metadata.at("reason");
  }
}

TEST(Trial, CountsWhatItSends) {
  const int ranks = test_runtime().size();
  const TrialResult with = run(case_of("train.drop_last = true\n"));
  const TrialResult without = run(case_of("norm.kind = none\ntrain.drop_last = true\n"));
  const auto& cost = with.metadata.at("cost");
  EXPECT_EQ(cost.at("norm_calls"), ranks > 1 ? 4 : 0) << "two layers, forward and backward";
  EXPECT_EQ(without.metadata.at("cost").at("norm_calls"), 0);
  EXPECT_EQ(cost.at("gradient_calls").get<double>() > 0, ranks > 1);
  const double weights = with.metadata.at("parameters");
  EXPECT_GT(cost.at("peak_tensor_bytes").get<double>(), 3 * 4 * weights)
      << "weights, gradients, momentum";
  EXPECT_GT(cost.at("peak_tensor_bytes"), without.metadata.at("cost").at("peak_tensor_bytes"));
}

}  // namespace
}  // namespace syncbn
