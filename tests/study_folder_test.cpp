// A study's folder: what counts as finished, who may claim a trial, and which folder is refused.
#include "study/study_folder.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "support/idx_files.hpp"
#include "support/options_support.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Json finished(const std::string& status) {
  return {{"status", status},
          {"lr", 0.1},
          {"final", {{"val_accuracy", 0.75}, {"val_loss", 0.5}}},
          {"targets", {{{"error", 0.3}, {"steps", 40}}, {{"error", 0.1}, {"steps", nullptr}}}},
          {"stage", "final"},
          {"ranks", 2},
          {"first_rank", 0},
          {"host", "here"},
          {"started", 100.0},
          {"finished", 103.0}};
}

class StudyFolderTest : public testing::Test {
 protected:
  void SetUp() override {
    plan_.experiments = parse_study({}, "[experiment a]\ntrain.batch = 16 | 32\n", "test.ini");
    plan_.cells = cells_of(plan_.experiments[0]);
  }
  StudyFolder folder() { return {path_, plan_}; }
  void create(const std::string& fingerprint = "one") {
    folder().create("text", {{"fingerprint", fingerprint}});
  }
  std::string file(const std::string& name) const {
    return path_ + "/" + plan_.folder_of(trial_) + "/" + name;
  }

  TempFolder scratch_;
  std::string path_ = scratch_.path().string() + "/runs/study";
  Plan plan_;
  Trial trial_{1, Stage::kFinal, 0.1, 3};
};

TEST_F(StudyFolderTest, ATrialIsFinishedOnceItsMetadataSaySo) {
  create();
  StudyFolder study = folder();
  ASSERT_TRUE(study.claim(trial_));
  EXPECT_EQ(study.outcome(trial_), nullptr);
  study.write_metadata(trial_, {{"status", "INCOMPLETE"}});
  EXPECT_EQ(study.outcome(trial_), nullptr);
  study.write_metadata(trial_, finished("COMPLETE"));
  study.write_table(trial_, "measurements.csv", "step\n");
  EXPECT_EQ(study.known(trial_), nullptr) << "nobody has looked";
  const Outcome* outcome = study.outcome(trial_);
  ASSERT_NE(outcome, nullptr);
  EXPECT_EQ(study.known(trial_), outcome);
  EXPECT_FALSE(outcome->diverged);
  EXPECT_EQ(outcome->val_accuracy, 0.75);
  EXPECT_EQ(outcome->val_loss, 0.5);
  EXPECT_EQ(outcome->first_target_steps, 40);
  EXPECT_EQ(fs::path(file("metadata.json")).parent_path().parent_path().filename(),
            "train.batch=32");
}

TEST_F(StudyFolderTest, ADivergedTrialIsFinished) {
  create();
  StudyFolder study = folder();
  study.claim(trial_);
  Json metadata = finished("DIVERGED");
  metadata["final"] = {{"val_accuracy", nullptr}, {"val_loss", nullptr}};
  metadata["targets"][0]["steps"] = nullptr;
  study.write_metadata(trial_, metadata);
  study.write_table(trial_, "measurements.csv", "step\n");
  ASSERT_NE(study.outcome(trial_), nullptr);
  EXPECT_TRUE(study.outcome(trial_)->diverged);
  EXPECT_FALSE(study.outcome(trial_)->first_target_steps);
}

TEST_F(StudyFolderTest, ATrialThatLostATableIsRunAgain) {
  create();
  const auto is_finished = [&] { return folder().outcome(trial_) != nullptr; };
  StudyFolder study = folder();
  study.claim(trial_);
  Json metadata = finished("COMPLETE");  // as an earlier version wrote it: tables are not listed
  study.write_metadata(trial_, metadata);
  EXPECT_FALSE(is_finished());
  study.write_table(trial_, "measurements.csv", "step\n");
  EXPECT_TRUE(is_finished());
  metadata["tables"] = {"measurements.csv", "layers.csv"};
  study.write_metadata(trial_, metadata);
  EXPECT_FALSE(is_finished());
  study.write_table(trial_, "layers.csv", "layer\n");
  EXPECT_TRUE(is_finished());
}

TEST_F(StudyFolderTest, LocksOfTheDeadAreRemovedAtTheEnd) {
  create();
  StudyFolder study = folder();
  fs::create_directories(fs::path(file("x")).parent_path());
  trial_ = {0, Stage::kFinal, 1e-3, 1};
  fs::create_directories(fs::path(file("x")).parent_path());
  std::ofstream(file(".lock")) << "";
  study.write_ledger();
  EXPECT_FALSE(fs::exists(file(".lock")));
  const auto held = study.claim(trial_);
  study.write_ledger();
  EXPECT_TRUE(fs::exists(file(".lock"))) << "of one that lives";
}

TEST_F(StudyFolderTest, ATrialOfAnotherRateIsRunAgain) {
  create();
  StudyFolder study = folder();
  study.claim(trial_);
  Json metadata = finished("COMPLETE");
  metadata["lr"] = 0.2;
  study.write_metadata(trial_, metadata);
  EXPECT_EQ(study.outcome(trial_), nullptr);
}

TEST_F(StudyFolderTest, WhatIsDamagedIsRunAgain) {
  create();
  StudyFolder study = folder();
  study.claim(trial_);
  for (const std::string text :
       {"", "{\"status\": \"COMPLETE\"", "{\"status\": \"COMPLETE\"}", "[]", "{\"status\": 3}"}) {
    std::ofstream(file("metadata.json")) << text;
    EXPECT_EQ(study.outcome(trial_), nullptr) << text;
  }
}

TEST_F(StudyFolderTest, AClaimHoldsOthersOffUntilItsHolderEnds) {
  create();
  StudyFolder study = folder();
  const auto held_elsewhere = [&] {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(folder().claim(trial_) == nullptr ? 1 : 0);
    int status = 0;
    ::waitpid(child, &status, 0);
    return WEXITSTATUS(status) == 1;
  };
  {
    const auto lock = study.claim(trial_);
    ASSERT_TRUE(lock);
    EXPECT_TRUE(held_elsewhere());
    EXPECT_FALSE(study.claim(trial_)) << "a second lane of this process";
  }
  EXPECT_FALSE(held_elsewhere());
  EXPECT_TRUE(study.claim(trial_)) << "a holder that died without a word";
}

TEST_F(StudyFolderTest, GoesOnWithTheSameStudyAlone) {
  create();
  create();
  expect_error([&] { create("another"); }, ExitCode::kCannotCreate,
               {path_, "another study", "--study.out"});
  path_ = scratch_.path().string() + "/full";
  fs::create_directory(path_);
  std::ofstream(path_ + "/notes.txt") << "mine";
  expect_error([&] { create(); }, ExitCode::kCannotCreate, {path_, "other files"});
  path_ += "/notes.txt";
  expect_error([&] { create(); }, ExitCode::kCannotCreate, {path_});
}

const Json kData = {{"mnist", {{"train", "aa"}, {"test", "bb"}}},
                    {"mnist 2", {{"train", "cc"}}},
                    {"own scaled by its own mean and deviation", {{"0.25 and 0.5", ""}}}};

// What run_study describes a study by, as far as folders are told apart by it.
Json description(const Plan& plan, const std::string& device = "cpu", const Json& data = kData) {
  Json cells = Json::array();
  for (const Cell& cell : plan.cells) cells.push_back({{"cell", cell.name}});
  return {{"fingerprint", plan.fingerprint() + device + data.dump()},
          {"device", device},
          {"data", data},
          {"experiments", {{{"name", "a"}, {"cells", cells}}}}};
}

TEST_F(StudyFolderTest, SaysWhatDiffersFromTheStudyThatItHolds) {
  folder().create("text", description(plan_));
  const auto expect_refused = [&](const std::string& text, const std::vector<std::string>& says,
                                  const std::string& device = "cpu", const Json& data = kData) {
    SCOPED_TRACE(text);
    Plan other;
    other.experiments = parse_study({}, "[experiment a]\n" + text, "test.ini");
    other.cells = cells_of(other.experiments[0]);
    const Json now = description(other, device, data);
    const auto check = [&] { StudyFolder(path_, other).check("text", now); };
    const auto create = [&] { StudyFolder(path_, other).create("text", now); };
    expect_error(check, ExitCode::kCannotCreate, says);
    expect_error(create, ExitCode::kCannotCreate, says);
  };
  const std::string same = "train.batch = 16 | 32\n";
  expect_refused(same + "study.seeds = 1 .. 5\n",
                 {"study.seeds is '1 .. 3', expected '1 .. 5' (in 2 cells)", "--study.out"});
  expect_refused("train.batch = 16 | 32 | 64\n", {"'a/train.batch=64' is not in it"});
  expect_refused("train.batch = 32 | 64 | 128\n", {"'a/train.batch=64' and 1 more are not in it",
                                                   "'a/train.batch=16' is only in it"});
  const auto expect_data_refused = [&](const char* at, const Json& value, const std::string& says) {
    Json data = kData;
    data[Json::json_pointer(at)] = value;
    expect_refused(same, {says + "; name another"}, "cpu", data);
  };
  expect_data_refused("/mnist/test", "xx", "'test' of the data set 'mnist' is another file");
  expect_data_refused(
      "/mnist/labels", "xx",
      "the data set 'mnist' has 'train', 'test', expected 'train', 'test', 'labels'");
  expect_data_refused("/mnist", {{"train", "aa"}},
                      "the data set 'mnist' has 'train', 'test', expected 'train'");
  expect_data_refused("/own scaled by its own mean and deviation", {{"0.5 and 0.5", ""}},
                      "the data set 'own scaled by its own mean and deviation' has '0.25 and 0.5', "
                      "expected '0.5 and 0.5'");
  expect_data_refused("/kmnist", {{"train", "dd"}}, "the data set 'kmnist' is not in it");
  Json one_set_less = kData;
  one_set_less.erase("mnist 2");
  expect_refused(same, {"the data set 'mnist 2' is only in it"}, "cpu", one_set_less);
  expect_refused(same, {"its device is 'cpu', expected 'cuda:0'"}, "cuda:0");
  EXPECT_NO_THROW(folder().check("text", description(plan_)));
}

// An earlier version did not know all options, so that its fingerprint and its files lack them.
TEST_F(StudyFolderTest, GoesOnWithAStudyOfAVersionThatKnewFewerOptions) {
  folder().create("text", description(plan_));
  const auto rewrite = [&](const std::string& name, const auto& change) {
    std::ifstream in(path_ + "/" + name);
    Json json = Json::parse(in);
    change(json);
    std::ofstream(path_ + "/" + name) << json;
  };
  rewrite("study.json", [](Json& json) { json["fingerprint"] = "of fewer options"; });
  for (const char* cell : {"a/train.batch=16/cell.json", "a/train.batch=32/cell.json"}) {
    rewrite(cell, [](Json& json) { json["options"].erase("norm.eps"); });
  }
  EXPECT_NO_THROW(folder().create("text", description(plan_)));
  for (Cell& cell : plan_.cells) cell.options.set("norm.eps", "0.5");
  expect_error([&] { folder().create("text", description(plan_)); }, ExitCode::kCannotCreate,
               {"norm.eps is '1e-05', expected '0.5'"});
}

TEST_F(StudyFolderTest, ACheckWritesNothing) {
  EXPECT_NO_THROW(folder().check("text", description(plan_)));
  EXPECT_FALSE(fs::exists(fs::path(path_).parent_path()));
  std::ofstream(scratch_.path() / "file") << "mine";
  path_ = scratch_.path().string() + "/file/study";
  expect_error([&] { folder().check("text", description(plan_)); }, ExitCode::kCannotCreate,
               {path_, "file' is not a folder"});
}

TEST_F(StudyFolderTest, MendsItsOwnFiles) {
  create();
  const std::string study = path_ + "/study.json", cell = path_ + "/a/train.batch=32/cell.json";
  const auto text_of = [](const std::string& path) {
    std::ifstream in(path);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  const std::string before = text_of(study), cell_before = text_of(cell);
  for (const char* damage : {"", "[]", "{\"fingerprint\": 5}"}) {
    std::ofstream(study) << damage;
    std::ofstream(cell) << "{";
    if (damage[0] == '{') {  // of whatever study
      expect_error([&] { create(); }, ExitCode::kCannotCreate, {path_});
      continue;
    }
    create();
    EXPECT_EQ(text_of(study), before);
    EXPECT_EQ(text_of(cell), cell_before);
  }
  std::ofstream(path_ + "/study.ini") << "another";
  std::ofstream(study) << "[]";
  expect_error([&] { create(); }, ExitCode::kCannotCreate, {path_, "other files"});
}

TEST_F(StudyFolderTest, BeginsWhereAJobWasKilledWhileItBegan) {
  fs::create_directories(path_);
  std::ofstream(path_ + "/study.json.tmp-123") << "{";
  std::ofstream(path_ + "/.lock") << "";
  create();
  EXPECT_TRUE(fs::exists(path_ + "/study.json"));
}

TEST_F(StudyFolderTest, TheLedgerHoldsWhatIsFinished) {
  create();
  StudyFolder study = folder();
  trial_ = {1, Stage::kFinal, 1e-3, 3};
  study.claim(trial_);
  Json metadata = finished("COMPLETE");
  metadata["lr"] = 1e-3;
  study.write_metadata(trial_, metadata);
  study.write_table(trial_, "measurements.csv", "step\n");
  study.write_ledger();
  std::ifstream in(path_ + "/ledger.csv");
  std::string header, line, more;
  std::getline(in, header);
  std::getline(in, line);
  EXPECT_EQ(header, "trial,stage,status,ranks,first_rank,host,start_s,end_s");
  EXPECT_EQ(line, "\"a/train.batch=32/final-seed3\",final,COMPLETE,2,0,here,100.0,103.0");
  EXPECT_FALSE(std::getline(in, more));
}

TEST_F(StudyFolderTest, TuningIsWrittenAsItWasFound) {
  create();
  StudyFolder study = folder();
  Tuning tuning;
  tuning.chosen = 0.1;
  tuning.edge = "high";
  tuning.curve = {{0.01, {0.5, std::nullopt}, std::nullopt, 1}, {0.1, {0.5, 0.75}, 0.625, 0}};
  study.write_tuning(0, tuning);
  std::ifstream in(path_ + "/a/train.batch=16/tuning.json");
  const Json json = Json::parse(in);
  EXPECT_EQ(json.at("chosen"), 0.1);
  EXPECT_EQ(json.at("edge"), "high");
  EXPECT_EQ(json.at("fallback"), false);
  EXPECT_TRUE(json.at("curve")[0].at("median").is_null());
  EXPECT_TRUE(json.at("curve")[0].at("values")[1].is_null());
  EXPECT_EQ(json.at("curve")[1].at("median"), 0.625);
  EXPECT_EQ(json.at("curve")[0].at("diverged"), 1);
}

}  // namespace
}  // namespace syncbn
