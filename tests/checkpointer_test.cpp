// When a run saves and stops, on all ranks in the same step, and what it does not save.
#include "train/checkpointer.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <optional>
#include <string>

#include "support/files.hpp"
#include "support/idx_files.hpp"
#include "support/options_support.hpp"
#include "support/training.hpp"

namespace syncbn {
namespace {

/// A run in a folder of its own, gone afterwards; steps are taken one by one.
class CheckpointerTest : public testing::Test {
 protected:
  /// Collective.
  void begin(const Settings& settings) {
    if (world()->rank() == 0) base_.emplace();
    job_ = job_with(settings);
    job_.options.run.out =
        world()->gather_text(base_ ? base_->path().string() : "").front() + "/run";
    placement_.device = test_device();
    trainer_.emplace(world(), job_.options, *job_.data, test_device());
    folder_.emplace(test_runtime(), job_.options, CommandLine{});
    folder_->begin(job_.options, {});
    setting_.emplace(Setting{job_.options, test_runtime(), placement_, threads_, *job_.data,
                             *trainer_, command_});
    checkpointer_.emplace(*setting_, *trainer_, *folder_);
    trainer_->start_epoch(0);
  }
  void TearDown() override { world()->barrier(); }  // then the folder goes

  /// Collective. The next step of the first epoch; whether to go on.
  bool step(bool looked = true) {
    trainer_->train_step(trainer_->step());
    return checkpointer_->after_step(looked, {});
  }

  /// Collective. The names of the checkpoints that are there.
  Names saved() {
    world()->barrier();
    const bool any = std::filesystem::exists(folder_->checkpoints());
    const Names names = any ? names_in(folder_->checkpoints()) : Names{};
    world()->barrier();
    return names;
  }
  static std::string file(int step) { return concat("step-00000000000", step, ".safetensors"); }

  void flip_a_bit_on_the_last_rank(const std::string& victim) {
    for (auto& [name, value] : trainer_->replica().state_dict()) {
      if (name != victim || !on_last_rank()) continue;
      at::Tensor host = value.cpu();  // on the CPU the value itself
      *static_cast<char*>(host.mutable_data_ptr()) ^= 1;
      value.copy_(host);
    }
  }

  std::optional<TempFolder> base_;  // rank 0
  Job job_;
  Placement placement_;
  ThreadPlan threads_;
  const std::string command_ = "a test";
  std::optional<Trainer> trainer_;
  std::optional<RunFolder> folder_;
  std::optional<Setting> setting_;
  std::optional<Checkpointer> checkpointer_;
};

TEST_F(CheckpointerTest, SavesEverySoManySteps) {
  begin({{"run.checkpoint_steps", "2"}, {"run.keep_checkpoints", "3"}});
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(step());
  EXPECT_EQ(saved(), (Names{file(2), file(4)}));
}

TEST_F(CheckpointerTest, OneRanksRequestHoldsForAllInTheNextStep) {
  begin({});
  if (on_last_rank()) trainer_->replica().request(Request::kSave);
  EXPECT_TRUE(step(/*looked=*/false)) << "what was not looked at is not acted on";
  EXPECT_EQ(saved(), Names{});
  if (on_last_rank()) trainer_->replica().request(Request::kSave);
  EXPECT_TRUE(step());
  EXPECT_TRUE(step());
  EXPECT_EQ(saved(), Names{file(2)});
  if (on_last_rank()) trainer_->replica().request(Request::kStop);
  EXPECT_FALSE(step());
  EXPECT_EQ(saved(), (Names{file(2), file(4)}));
}

TEST_F(CheckpointerTest, TheLastStepIsSavedAndNeverStopped) {
  begin({{"train.max_steps", "2"}});
  EXPECT_TRUE(step());
  trainer_->replica().request(Request::kStop);
  EXPECT_TRUE(step()) << "nothing is left to stop";
  EXPECT_EQ(saved(), Names{file(2)});
}

// Earlier versions scaled every set by MNIST's mean and deviation, and said nothing of it.
TEST_F(CheckpointerTest, ARunThatWasScaledByMnistsConstantsIsNotGoneOnWith) {
  begin({{"data.scale", "standard"}, {"run.checkpoint_steps", "1"}});
  EXPECT_TRUE(step());
  EXPECT_NO_THROW(checkpointer_->resume());
  world()->barrier();
  if (world()->rank() == 0) {
    const CheckpointFolder files(folder_->checkpoints(), 2);
    Checkpoint older = *files.newest().checkpoint;
    EXPECT_EQ(older.texts.erase("mean and deviation of data.scale = standard"), 1u);
    files.save(older);
  }
  world()->barrier();
  try {
    checkpointer_->resume();
    ADD_FAILURE() << "no error";
  } catch (const UsageError& error) {
    EXPECT_EQ(error.code(), ExitCode::kInputDamaged) << error.what();
    EXPECT_NE(std::string(error.what()).find("took MNIST's mean and deviation"), std::string::npos)
        << error.what();
  }
}

TEST_F(CheckpointerTest, ReplicasThatDifferAreNamedAndNothingIsSaved) {
  for (const char* victim : {"0.weight", "4.running_var"}) {
    SCOPED_TRACE(victim);
    begin({{"run.checkpoint_steps", "1"}, {"run.keep_checkpoints", "3"}});
    EXPECT_TRUE(step());
    trainer_->train_step(trainer_->step());
    flip_a_bit_on_the_last_rank(victim);
    flip_a_bit_on_the_last_rank("4.num_batches_tracked");  // a later one
    if (world()->size() == 1) {
      EXPECT_TRUE(checkpointer_->after_step(true, {}));
      continue;
    }
    const int last = world()->size() - 1;
    expect_error([&] { checkpointer_->after_step(true, {}); }, ExitCode::kInvariant,
                 {concat("'", victim, "'"), last == 1 ? "on rank 0;" : "on rank 0, 1;",
                  concat("on rank ", last, ";")});
    EXPECT_EQ(saved(), Names{file(1)});
    folder_.reset();
    world()->barrier();
    base_.reset();
  }
}

TEST_F(CheckpointerTest, MomentsThatDifferAreFoundThoughTheWeightsAreTheSame) {
  for (const char* optimizer : {"sgd", "adam"}) {
    begin({{"run.check_steps", "2"}, {"train.optimizer", optimizer}});
    EXPECT_TRUE(step());
    trainer_->train_step(trainer_->step());
    const std::string last =
        optimizer == std::string("sgd") ? "optimizer.momentum_buffer" : "optimizer.exp_avg_sq";
    for (auto& [name, value] : trainer_->state()) {
      if (name == last && on_last_rank()) value[0] = 1e-5;
    }
    if (world()->size() == 1) {
      EXPECT_TRUE(checkpointer_->after_step(true, {}));
    } else {
      expect_error([&] { checkpointer_->after_step(true, {}); }, ExitCode::kInvariant,
                   {concat("'", last, "'"), concat("on rank ", world()->size() - 1, ";")});
    }
    folder_.reset();
    world()->barrier();
    base_.reset();
  }
}

TEST_F(CheckpointerTest, ReplicasAreComparedBetweenSaves) {
  begin({{"run.check_steps", "3"}});
  EXPECT_TRUE(step());
  trainer_->train_step(trainer_->step());
  flip_a_bit_on_the_last_rank("4.running_mean");
  EXPECT_TRUE(checkpointer_->after_step(true, {}));
  trainer_->train_step(trainer_->step());
  flip_a_bit_on_the_last_rank("3.bias");
  if (world()->size() == 1) return;
  expect_error([&] { checkpointer_->after_step(true, {}); }, ExitCode::kInvariant, {"'3.bias'"});
}

TEST_F(CheckpointerTest, AFullDiskIsToldToAllRanks) {
  begin({{"run.checkpoint_steps", "1"}});
  EXPECT_TRUE(step());
  std::optional<FullDisk> full;
  if (world()->rank() == 0) full.emplace(kFull);
  expect_error([&] { step(); }, ExitCode::kWriteFailed, {file(2)});
  full.reset();
  EXPECT_EQ(saved(), Names{file(1)});
}

TEST_F(CheckpointerTest, NothingOfADivergedRunIsSaved) {
  begin({{"run.checkpoint_steps", "3"}, {"norm.kind", "none"}, {"train.lr", "1e200"}});
  EXPECT_TRUE(step(/*looked=*/false));
  EXPECT_TRUE(step(/*looked=*/false));
  expect_error([&] { step(/*looked=*/false); }, ExitCode::kInvariant, {"at step 3", "diverged"});
  EXPECT_EQ(saved(), Names{});
}

}  // namespace
}  // namespace syncbn
