// The collective side of checkpoints: when a run saves, what a checkpoint holds of it, and how it
// is taken up again on any number of ranks. The files are train/checkpoint.hpp's.
#pragma once

#include <optional>
#include <string>

#include "base/clock.hpp"
#include "train/best.hpp"
#include "train/checkpoint.hpp"
#include "train/description.hpp"
#include "train/run_folder.hpp"

namespace syncbn {

class Checkpointer {
 public:
  /// All of them must outlive it.
  Checkpointer(const Setting& setting, Trainer& trainer, RunFolder& folder);

  /// Where a run stands besides its tensors: the last row, and what is in the metrics files.
  struct Position {
    MetricsRow row;
    MetricsFiles::Bytes metrics;
    bool resumed = false;   ///< from a checkpoint; else the run begins
    bool finished = false;  ///< its folder holds all that it leaves: nothing is to be done
    std::optional<BestEpoch> best;
    std::string weights_sha256;  ///< of the file of model.weights
  };

  /// Collective. Takes up the newest checkpoint that can be used, and says so; later ones that
  /// cannot are named in warnings. Without any, the run begins; of a run that has ended already,
  /// and that these options end at the same step, nothing is touched. Throws UsageError on all
  /// ranks: 65 if none can be used or the checkpoint is of another run (each differing option is
  /// named, with the reason), or does not go with the metrics files; 66 if the folder cannot be
  /// read, 64 if the options end the run before the checkpoint's step.
  Position resume();

  /// Collective, after the row of an epoch, while the model holds what was evaluated: with
  /// run.keep_best keeps it as best.safetensors if it is the best so far. Throws UsageError on all
  /// ranks: 74 if writing fails.
  void keep_if_best(const MetricsRow& row);
  std::optional<BestEpoch> best() const;

  /// Collective, after each step of the training that follows `row`; the trainer's AfterStep.
  /// Compares the replicas and saves when it is time, at the end, and when the job was asked to
  /// stop (comm/stop.hpp) — all ranks in the same step. False: stop, it is saved. Throws UsageError
  /// on all ranks: 70 if replicas differ (nothing is saved), 74 if writing fails.
  bool after_step(bool looked, const MetricsRow& row);

 private:
  Checkpoint describe_run() const;
  Reasons reasons(const std::string& path) const;
  Position read(CheckpointFolder::Found& found, Checkpoint& own) const;
  bool is_finished_without_steps(Checkpoint own) const;
  NamedTensors tensors_of_best() const;
  void take(Checkpoint& own, const Position& position, const CheckpointFolder::Found& found);
  void write_best();
  std::string computes_with() const;
  void save(const MetricsRow& row);

  const Setting& setting_;
  Trainer& trainer_;
  RunFolder& folder_;
  std::optional<BestModel> best_;
  CheckpointFolder files_;
  Clock::time_point saved_at_ = Clock::now();
};

}  // namespace syncbn
