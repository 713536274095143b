// The collective side of checkpoints: when a run saves, what a checkpoint holds of it, and how it
// is taken up again on any number of ranks. The files are train/checkpoint.hpp's.
#pragma once

#include <string>

#include "base/clock.hpp"
#include "train/checkpoint.hpp"
#include "train/description.hpp"
#include "train/run_folder.hpp"

namespace syncbn {

class Checkpointer {
 public:
  /// All of them must outlive it.
  Checkpointer(const Setting& setting, Trainer& trainer, const RunFolder& folder);

  /// Where a run stands besides its tensors: the last row, and what is in the metrics files.
  struct Position {
    MetricsRow row;
    MetricsFiles::Bytes metrics;
  };

  /// Collective. Takes up the newest checkpoint that can be used, and says so; later ones that
  /// cannot are named in warnings. Without any, the run begins. Throws UsageError on all ranks: 65
  /// if none can be used or the checkpoint is of another run (each differing option is named), 66
  /// if the folder cannot be read, 64 if the options end the run before the checkpoint's step.
  Position resume();

  /// Collective, after each step of the training that follows `row`; the trainer's AfterStep.
  /// Compares the replicas and saves when it is time, at the end, and when the job was asked to
  /// stop (comm/stop.hpp) — all ranks in the same step. False: stop, it is saved. Throws UsageError
  /// on all ranks: 70 if replicas differ (nothing is saved), 74 if writing fails.
  bool after_step(bool looked, const MetricsRow& row);

 private:
  Checkpoint describe_run() const;
  std::string computes_with() const;
  void save(const MetricsRow& row);

  const Setting& setting_;
  Trainer& trainer_;
  const RunFolder& folder_;
  CheckpointFolder files_;
  Clock::time_point saved_at_ = Clock::now();
};

}  // namespace syncbn
