// The run's folder: what it holds, and when and how it is refused, on all ranks alike.
#include "train/run_folder.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "support/files.hpp"
#include "support/idx_files.hpp"
#include "support/mpi_main.hpp"
#include "support/options_support.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;

const Names kFreshFiles = {".lock", "config.ini", "metrics.csv", "metrics.jsonl"};

/// One folder for all ranks, gone afterwards; runs go into "runs/a" below it.
class RunFolderTest : public testing::Test {
 protected:
  void SetUp() override {
    if (speaks()) base_.emplace();
    root_ = runtime_.world()->gather_text(base_ ? base_->path().string() : "").front();
    run_ = root_ / "runs" / "a";
    options_.run.out = run_;
    line_.config = "configs/mine.ini";
  }
  void TearDown() override { runtime_.world()->barrier(); }  // then the folder goes

  bool speaks() const { return runtime_.rank() == 0; }
  void barrier() { runtime_.world()->barrier(); }

  /// Collective. As left by a run before, and files of somebody else.
  void fill() {
    if (speaks()) {
      fs::create_directories(run_ / "notes");
      for (const char* name : {"model.safetensors", "metadata.json", "metrics.csv", "mine.txt"}) {
        write_text(run_ / name, "before");
      }
      write_text(run_ / "config.ini", to_ini(options_));
    }
    barrier();
  }

  /// Collective. Expects that all ranks are refused alike, and that the files stay as they are.
  void expect_refused(const std::vector<std::string>& parts) {
    const Names before = fs::is_directory(run_) ? names_in(run_) : Names{};
    barrier();
    try {
      const RunFolder folder(runtime_, options_, line_);
      ADD_FAILURE() << "not refused";
    } catch (const UsageError& error) {
      EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(ExitCode::kCannotCreate));
      for (const std::string& part : parts) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
      }
    }
    barrier();
    EXPECT_EQ(fs::is_directory(run_) ? names_in(run_) : Names{}, before);
    barrier();  // before rank 0 goes on to change them
  }

  Runtime& runtime_ = test_runtime();
  std::optional<TempFolder> base_;
  fs::path root_, run_;
  Options options_;
  CommandLine line_;
};

TEST_F(RunFolderTest, HoldsTheRun) {
  set_option(options_, "train.lr", "0.1234567890123");
  {
    RunFolder folder(runtime_, options_, line_);
    EXPECT_EQ(folder.path(), run_);
    folder.begin(options_, {});
    EXPECT_EQ(names_in(run_), kFreshFiles);
    barrier();
    folder.write_metadata("{}\n");
    folder.append({});
    folder.write_model("bytes");
    barrier();
    EXPECT_EQ(read_text(run_ / "metadata.json"), "{}\n");
    EXPECT_EQ(read_text(run_ / "model.safetensors"), "bytes");
    EXPECT_EQ(lines_of(read_text(run_ / "metrics.csv")).size(), 2U);
    EXPECT_EQ(lines_of(read_text(run_ / "metrics.jsonl")).size(), 1U);
    barrier();
  }
  barrier();
  EXPECT_EQ(names_in(run_), (Names{"config.ini", "metadata.json", "metrics.csv", "metrics.jsonl",
                                   "model.safetensors"}));
  const Options again = parse_options(CommandLine{}, read_text(run_ / "config.ini"), "config.ini");
  EXPECT_EQ(to_ini(again), to_ini(options_));
}

TEST_F(RunFolderTest, RefusesAFolderWithFiles) {
  fill();
  expect_refused({run_.string(), "--overwrite"});
  EXPECT_EQ(read_text(run_ / "model.safetensors"), "before");
  barrier();
  line_.overwrite = true;  // and the refusal holds no lock
  const RunFolder folder(runtime_, options_, line_);
}

TEST_F(RunFolderTest, OverwritesItsOwnFilesOnly) {
  fill();
  if (speaks()) write_text(run_ / "checkpoints" / "step-000000000007.safetensors", "before");
  line_.overwrite = true;
  RunFolder folder(runtime_, options_, line_);
  folder.begin(options_, {});
  barrier();
  Names expected = kFreshFiles;
  expected.insert({"mine.txt", "notes"});
  EXPECT_EQ(names_in(run_), expected);
  EXPECT_EQ(read_text(run_ / "mine.txt"), "before");
  EXPECT_EQ(lines_of(read_text(run_ / "metrics.csv")).size(), 1U);
  barrier();
}

TEST_F(RunFolderTest, OverwritesWhatARunHasLeftAndNothingElse) {
  const std::string own =
      R"({"status": "COMPLETE", "rank_devices": [], "versions": {"syncbn": "1"}})";
  line_.overwrite = true;
  using Files = std::vector<std::pair<const char*, std::string>>;
  for (const Files& files : {Files{{"config.ini", "[train]\nlr = 1\n"}, {"metadata.json", own}},
                             Files{{"metadata.json", "{}"}},
                             Files{{"metadata.json", R"({"versions": {"syncbn": "1"}})"}},
                             Files{{"model.safetensors", "x"}}, Files{{"thesis.tex", "x"}},
                             Files{{"study.json", "{}"}, {"ledger.csv", "x"}}}) {
    if (speaks()) {
      fs::remove_all(run_);
      fs::create_directories(run_ / "checkpoints");
      write_text(run_ / "checkpoints" / "step-000000000005.safetensors", "x");
      for (const auto& [name, content] : files) write_text(run_ / name, content);
    }
    barrier();
    expect_refused({run_.string(), "--overwrite replaces a run", "--run.out"});
    EXPECT_TRUE(fs::exists(run_ / "checkpoints" / "step-000000000005.safetensors"));
    barrier();
  }
  if (speaks()) {
    fs::remove_all(run_);
    fs::create_directories(run_);
    write_text(run_ / "metadata.json", own);  // without a config.ini
  }
  barrier();
  const RunFolder folder(runtime_, options_, line_);
  EXPECT_EQ(names_in(run_), Names{".lock"});
  barrier();
}

TEST_F(RunFolderTest, WhatAKilledRunLeftHalfWrittenIsRemovedAtTheNextStart) {
  const Names half = {"config.ini.tmp-host-7", "metadata.json.tmp-host-7",
                      "model.safetensors.tmp-host-7", "best.safetensors.tmp-host-8"};
  for (const bool resume : {false, true}) {
    if (speaks()) {
      fs::create_directories(run_);
      for (const std::string& name : half) write_text(run_ / name, "half");
    }
    barrier();
    line_.resume = resume;
    {
      const RunFolder folder(runtime_, options_, line_);  // no obstacle without --resume either
      EXPECT_EQ(names_in(run_), Names{".lock"});
      barrier();
    }
    barrier();
  }
  if (speaks()) write_text(run_ / "thesis.tex.tmp-1", "of the user");
  barrier();
  const RunFolder folder(runtime_, options_, line_);
  EXPECT_EQ(names_in(run_), (Names{".lock", "thesis.tex.tmp-1"}));
  barrier();
}

TEST_F(RunFolderTest, ALinkInThePlaceOfTheLockIsNotFollowed) {
  if (speaks()) {
    fs::create_directories(run_);
    fs::create_symlink(root_ / "elsewhere", run_ / ".lock");
  }
  barrier();
  expect_refused({"symbolic link", (run_ / ".lock").string()});
  EXPECT_FALSE(fs::exists(root_ / "elsewhere"));
  barrier();
}

TEST_F(RunFolderTest, RefusesAFolderThatARunningJobHolds) {
  for (const bool overwrite : {false, true}) {
    line_.overwrite = overwrite;
    RunFolder first(runtime_, options_, line_);
    first.begin(options_, {});
    expect_refused({"another running job", "--run.out"});
    first.write_model("bytes");
    barrier();
    EXPECT_EQ(read_text(run_ / "model.safetensors"), "bytes");
    barrier();
  }
  const RunFolder next(runtime_, options_, line_);  // the lock went with its job
}

TEST_F(RunFolderTest, RefusesWhatIsNoFolder) {
  if (speaks()) write_text(root_ / "file", "x");
  for (const char* path : {"file", "file/below"}) {
    run_ = root_ / path;
    options_.run.out = run_;
    expect_refused({run_.string(), "--run.out"});
  }
}

TEST_F(RunFolderTest, AFullDiskIsToldToAllRanks) {
  RunFolder folder(runtime_, options_, line_);
  folder.write_model("old");
  {
    std::optional<FullDisk> full;
    if (speaks()) full.emplace(kFull);
    expect_error([&] { folder.write_model(too_long()); }, ExitCode::kWriteFailed,
                 {"model.safetensors"});
  }
  barrier();
  EXPECT_EQ(read_text(run_ / "model.safetensors"), "old");
}

TEST_F(RunFolderTest, IsNamedAfterTheConfigurationByDefault) {
  const fs::path here = fs::current_path();
  fs::current_path(root_);
  options_.run.out = "";
  {
    RunFolder folder(runtime_, options_, line_);
    folder.begin(options_, {});
    std::vector<std::unique_ptr<RunFolder>> others;  // at least two in one second
    Names paths_of_all = {folder.path()};
    for (int i = 0; i < 3; ++i) {
      others.push_back(std::make_unique<RunFolder>(runtime_, options_, line_));
      paths_of_all.insert(others.back()->path());
    }
    EXPECT_EQ(paths_of_all.size(), 4U);
    EXPECT_EQ(folder.path().rfind("runs/mine-20", 0), 0U) << folder.path();
    EXPECT_TRUE(fs::exists(root_ / folder.path() / "config.ini"));
    const auto paths = runtime_.world()->gather_text(folder.path());
    for (const std::string& path : paths) EXPECT_EQ(path, folder.path());
  }
  fs::current_path(here);
}

}  // namespace
}  // namespace syncbn
