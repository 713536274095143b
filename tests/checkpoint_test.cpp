// Checkpoints: whole or refused, whatever happened to the file, and never without the one before.
#include "train/checkpoint.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <random>

#include "base/digest.hpp"
#include "base/file.hpp"
#include "support/files.hpp"
#include "support/idx_files.hpp"
#include "support/options_support.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;

Checkpoint checkpoint_at(int64_t step) {
  return {step,
          {{"0.weight", torch::full({2, 3}, static_cast<double>(step), torch::kFloat)},
           {"1.num_batches_tracked", torch::tensor(step)},
           {"optimizer.momentum", torch::tensor({0.5, -0.5}, torch::kDouble)}},
          {{"position.epoch", "3"}, {"train.batch", "64"}, {"data.sha256", "…"}}};
}

std::string name_of(int64_t step) {
  std::string digits = std::to_string(step);
  return "step-" + std::string(12 - digits.size(), '0') + digits + ".safetensors";
}

void expect_equal(const Checkpoint& found, const Checkpoint& expected) {
  EXPECT_EQ(found.step, expected.step);
  EXPECT_EQ(found.texts, expected.texts);
  ASSERT_EQ(found.tensors.size(), expected.tensors.size());
  for (size_t i = 0; i < found.tensors.size(); ++i) {
    EXPECT_EQ(found.tensors[i].first, expected.tensors[i].first);
    EXPECT_TRUE(at::equal(found.tensors[i].second, expected.tensors[i].second));
  }
}

void expect_damaged(const std::string& bytes, const std::vector<std::string>& parts = {}) {
  std::vector<std::string> all = {"'the file'"};
  all.insert(all.end(), parts.begin(), parts.end());
  expect_error([&] { from_bytes(bytes, "the file"); }, ExitCode::kInputDamaged, all);
}

/// `bytes` with its first `from` as `to` (as long), and the digest that then fits.
std::string forged(std::string bytes, const std::string& from, const std::string& to) {
  EXPECT_EQ(from.size(), to.size());
  bytes.replace(bytes.find(from), from.size(), to);
  const std::string key = "\"checkpoint.sha256\":\"";
  const size_t place = bytes.find(key) + key.size();
  bytes.replace(place, 64, std::string(64, '0'));
  return bytes.replace(place, 64, sha256({bytes}));
}

// ---- bytes ----

TEST(Sha256, IsThatOfThePublishedExamples) {  // FIPS 180-2, appendix B; the empty text: NIST's CAVP
  EXPECT_EQ(sha256({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256({"abc"}), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256({"a", "", "bc"}), sha256({"abc"}));
}

TEST(CheckpointBytes, ComeBackWhole) {
  const Checkpoint checkpoint = checkpoint_at(1234);
  const std::string bytes = to_bytes(checkpoint);
  expect_equal(from_bytes(bytes, "a"), checkpoint);
  EXPECT_EQ(to_bytes(from_bytes(bytes, "a")), bytes);
  EXPECT_EQ(to_bytes(checkpoint), bytes) << "the same state gives other bytes";
  expect_equal(from_bytes(to_bytes({}), "a"), {});
}

TEST(CheckpointBytes, ATextCannotPassForTheDigest) {
  Checkpoint checkpoint = checkpoint_at(1);
  checkpoint.texts["a"] = "\"checkpoint.sha256\":\"" + std::string(64, '0');
  checkpoint.tensors.emplace_back(checkpoint.texts["a"], torch::ones({1}));
  expect_equal(from_bytes(to_bytes(checkpoint), "a"), checkpoint);
}

TEST(CheckpointBytes, ReservedTextsAreRefused) {
  for (const char* key : {"format", "checkpoint.step", "checkpoint.other"}) {
    Checkpoint checkpoint = checkpoint_at(1);
    checkpoint.texts[key] = "1";
    EXPECT_THROW(to_bytes(checkpoint), Error) << key;
  }
  EXPECT_THROW(to_bytes(checkpoint_at(-1)), Error);
}

TEST(CheckpointBytes, AnyChangedByteIsFound) {
  const std::string good = to_bytes(checkpoint_at(1234));
  for (size_t place = 0; place < good.size(); ++place) {
    for (const int change : {0x01, 0x20, 0x80, 0xff}) {  // 0x20: a digit of the digest as a capital
      std::string bytes = good;
      bytes[place] = static_cast<char>(bytes[place] ^ change);
      SCOPED_TRACE(concat("byte ", place, " changed by ", change));
      expect_damaged(bytes, {"is damaged"});
    }
  }
}

TEST(CheckpointBytes, AnyOtherLengthIsFound) {
  const std::string good = to_bytes(checkpoint_at(1234));
  for (size_t size = 0; size < good.size(); ++size) expect_damaged(good.substr(0, size));
  expect_damaged(good + '\0');
  expect_damaged(good + good);
  expect_damaged(std::string(good.size(), '\0'));
}

TEST(CheckpointBytes, TheDamagedPartIsNamed) {
  const std::string good = to_bytes(checkpoint_at(1234));
  expect_damaged(good.substr(0, good.size() - 1), {"tensor 'optimizer.momentum' ends"});
  expect_damaged(good.substr(0, 100), {"its header takes"});
  std::string bytes = good;
  bytes[good.find("num_batches") - 4] = '\n';  // the quote before the name
  expect_damaged(bytes, {"its header is no JSON"});
  bytes = good;
  bytes.back() ^= 1;
  expect_damaged(bytes, {"SHA-256", "a tensor or a text"});
  expect_damaged(to_safetensors(checkpoint_at(1).tensors, {}), {"no checkpoint.sha256"});
}

TEST(CheckpointBytes, ANewerFormatIsRefusedWithBothNamed) {
  const std::string good = to_bytes(checkpoint_at(1234)), key = "\"checkpoint.format\":";
  expect_error([&] { from_bytes(forged(good, key + "\"1\"", key + "\"7\""), "the file"); },
               ExitCode::kInputDamaged, {"'the file'", "format 7", "reads format 1"});
  expect_damaged(forged(good, key + "\"1\"", key + "\"x\""), {"checkpoint.format is 'x'"});
  expect_damaged(forged(good, "checkpoint.format", "checkpoint.xxxxxx"),
                 {"checkpoint.format is ''"});
  expect_damaged(forged(good, "\"1234\"", "\"-234\""), {"checkpoint.step is '-234'"});
  expect_damaged(forged(good, "\"1234\"", "\"12.4\""), {"checkpoint.step is '12.4'"});
}

TEST(CheckSameRun, NamesEveryDifference) {
  const Checkpoint found = checkpoint_at(7);
  Checkpoint own = checkpoint_at(0);
  own.texts.erase("position.epoch");
  check_same_run(found, own, "the file");
  std::swap(own.tensors[0], own.tensors[1]);
  check_same_run(found, own, "the file");

  own.texts = {{"train.batch", "128"}, {"run.shards", "16"}, {"data.sha256", "…"}};
  own.tensors = {{"0.weight", torch::zeros({2, 4})},
                 {"0.bias", torch::zeros({2})},
                 {"optimizer.momentum", torch::zeros({2})}};
  expect_error(
      [&] { check_same_run(found, own, "the file"); }, ExitCode::kInputDamaged,
      {"'the file'", "train.batch is '64', expected '128'", "run.shards is missing, expected '16'",
       "0.weight is Float [2, 3], expected Float [2, 4]", "0.bias is missing",
       "optimizer.momentum is Double [2], expected Float [2]",
       "'1.num_batches_tracked' is not expected"});
}

TEST(CheckSameRun, GivesReasonsAndAdvice) {
  const Checkpoint found = checkpoint_at(7);
  Checkpoint own = checkpoint_at(0);
  own.texts = {{"train.batch", "32"}};
  const Reasons reasons{{{"train.batch", "for this reason"}}, "Do that."};
  expect_error([&] { check_same_run(found, own, "the file", reasons); }, ExitCode::kInputDamaged,
               {"'the file' is of another run",
                "train.batch is '64', expected '32' (for this reason). Do that."});
  own.tensors.pop_back();  // of another model, to whom the advice is no help
  try {
    check_same_run(found, own, "the file", reasons);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find("Do that."), std::string::npos) << error.what();
  }
}

// ---- the folder ----

class Checkpoints : public testing::Test {
 protected:
  fs::path file(int64_t step) const { return path_ / name_of(step); }
  void save(std::initializer_list<int64_t> steps) const {
    for (const int64_t step : steps) EXPECT_EQ(folder_.save(checkpoint_at(step)), file(step));
  }
  /// Changes the last byte of a checkpoint.
  void harm(int64_t step) const {
    std::string bytes = read_text(file(step));
    bytes.back() ^= 1;
    write_text(file(step), bytes);
  }
  void expect_newest(int64_t step, size_t warnings) const {
    const auto found = folder_.newest();
    EXPECT_EQ(found.warnings.size(), warnings) << testing::PrintToString(found.warnings);
    ASSERT_TRUE(found.checkpoint);
    EXPECT_EQ(found.path, file(step));
    expect_equal(*found.checkpoint, checkpoint_at(step));
  }

  TempFolder temp_;
  const fs::path path_ = temp_.path() / "checkpoints";
  const CheckpointFolder folder_{path_, 2};
};

TEST_F(Checkpoints, NoneAreFoundWhereNoneAre) {
  EXPECT_FALSE(folder_.newest().checkpoint);
  EXPECT_FALSE(fs::exists(path_));
  fs::create_directory(path_);
  write_text(path_ / "step-1.safetensors", "not a name of ours");
  write_text(path_ / "step-00000000000x.safetensors", "neither");
  EXPECT_FALSE(folder_.newest().checkpoint);
  EXPECT_TRUE(folder_.newest().warnings.empty());
}

TEST_F(Checkpoints, TheLastFewAreKept) {
  save({0, 9, 10});
  EXPECT_EQ(names_in(path_), (Names{name_of(9), name_of(10)}));
  folder_.save(checkpoint_at(1'000'000'000'000));  // 13 digits
  EXPECT_EQ(folder_.newest().checkpoint->step, 1'000'000'000'000);
  const CheckpointFolder one(path_, 1);
  one.save(checkpoint_at(1'000'000'000'001));
  EXPECT_EQ(names_in(path_), Names{"step-1000000000001.safetensors"});
  EXPECT_THROW(CheckpointFolder(path_, 0), Error);
}

TEST_F(Checkpoints, ADamagedOneIsPassedOverLoudly) {
  save({10, 20});
  expect_newest(20, 0);
  harm(20);
  expect_newest(10, 1);
  const std::string warning = testing::PrintToString(folder_.newest().warnings);
  EXPECT_NE(warning.find(file(20)), std::string::npos) << warning;
  EXPECT_NE(warning.find("SHA-256"), std::string::npos) << warning;

  const CheckpointFolder one(path_, 1);  // the new one stays, though the damaged one is later
  one.save(checkpoint_at(15));
  expect_newest(15, 1);
  EXPECT_EQ(names_in(path_), (Names{name_of(15), name_of(20)}));
  save({20});
  expect_newest(20, 0);
}

TEST_F(Checkpoints, WhateverIsWrongWithItIsPassedOver) {
  save({10});
  fs::create_directory(file(60));
  ASSERT_EQ(mkfifo(file(50).c_str(), 0600), 0);
  write_text(file(40), "");
  fs::copy(file(10), file(30));  // of another step than its name says
  const std::string key = "\"checkpoint.format\":";
  write_text(file(20), forged(to_bytes(checkpoint_at(20)), key + "\"1\"", key + "\"2\""));
  expect_newest(10, 5);
  const auto warnings = folder_.newest().warnings;
  ASSERT_EQ(warnings.size(), 5U);
  const char* reasons[] = {"a folder", "regular file", "0 bytes", "of step 10", "format 2"};
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_NE(warnings[i].find(reasons[i]), std::string::npos) << warnings[i];
    EXPECT_NE(warnings[i].find(file(60 - 10 * static_cast<int64_t>(i))), std::string::npos);
  }
}

TEST_F(Checkpoints, OnlyDamagedOnesAreAnError) {
  save({10, 20});
  harm(10);
  write_text(file(20), "");
  expect_error([&] { folder_.newest(); }, ExitCode::kInputDamaged,
               {path_, name_of(10), name_of(20), "SHA-256", "0 bytes"});
}

TEST_F(Checkpoints, AFolderThatCannotBeReadIsNoEmptyOne) {
  write_text(path_, "a file");
  expect_error([&] { folder_.newest(); }, ExitCode::kInputMissing, {path_});
  expect_error([&] { folder_.save(checkpoint_at(1)); }, ExitCode::kInputMissing, {path_});
  const CheckpointFolder lost(path_ / "no" / "where", 2);
  expect_error([&] { lost.save(checkpoint_at(1)); }, ExitCode::kWriteFailed, {"no/where"});
}

TEST_F(Checkpoints, AFullDiskLosesNothing) {
  save({10, 20});
  {
    const FullDisk full(static_cast<rlim_t>(fs::file_size(file(10)) - 1));
    expect_error([&] { folder_.save(checkpoint_at(30)); }, ExitCode::kWriteFailed, {name_of(30)});
    expect_error([&] { folder_.save(checkpoint_at(20)); }, ExitCode::kWriteFailed, {name_of(20)});
  }
  EXPECT_EQ(names_in(path_), (Names{name_of(10), name_of(20)}));
  expect_newest(20, 0);
}

TEST_F(Checkpoints, WhatKilledRunsLeftIsIgnoredAndRemoved) {
  save({10});
  write_text(path_ / (name_of(20) + ".tmp-4711"), "half");
  write_text(path_ / "mine.tmp-1", "of the user");
  expect_newest(10, 0);
  save({30});
  EXPECT_EQ(names_in(path_), (Names{name_of(10), name_of(30), "mine.tmp-1"}));
}

TEST_F(Checkpoints, AKillAtAnyMomentLeavesAWholeOne) {
  constexpr int kKills = 50;
  std::mt19937 random(7);
  int halfway = 0;
  int64_t step = 0;
  save({step});
  for (int kills = 0; kills < kKills; ++kills) {
    const pid_t child = fork();
    if (child == 0) {
      for (;;) folder_.save(checkpoint_at(++step));
    }
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    const auto nothing_saved = [&] {
      return fs::exists(file(step)) && !fs::exists(file(step + 1));  // nor removed as too old
    };
    while (nothing_saved() && std::chrono::steady_clock::now() < deadline) usleep(100);
    usleep(static_cast<useconds_t>(random() % 20'000));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    for (const std::string& name : names_in(path_)) halfway += name.find(".tmp-") != name.npos;
    const auto found = folder_.newest();
    ASSERT_TRUE(found.checkpoint);
    EXPECT_TRUE(found.warnings.empty()) << testing::PrintToString(found.warnings);
    EXPECT_GT(found.checkpoint->step, step);
    step = found.checkpoint->step;
  }
  EXPECT_GT(halfway, 0) << "never killed in the middle of a write";
  save({step + 1});
  EXPECT_LE(names_in(path_).size(), 2U);
}

}  // namespace
}  // namespace syncbn
