// The trainer: steps, epochs, evaluation. The whole of what a run computes; no files, no printing.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/options.hpp"
#include "comm/communicator.hpp"
#include "comm/overlap.hpp"
#include "data/dataset.hpp"
#include "data/sampler.hpp"
#include "nn/network.hpp"
#include "train/optimizer.hpp"
#include "train/replica.hpp"
#include "train/safetensors.hpp"

namespace syncbn {

/// Loss and accuracy of a number of samples; sums over all ranks, each sample counted once.
struct Score {
  double loss_sum = 0;
  int64_t correct = 0, samples = 0;
  double loss() const { return loss_sum / static_cast<double>(samples); }
  double accuracy() const { return static_cast<double>(correct) / static_cast<double>(samples); }
};

/// The training or evaluation loss is not finite. Thrown by all ranks.
class DivergedError : public UsageError {
 public:
  explicit DivergedError(const std::string& message) : UsageError(message, ExitCode::kInvariant) {}
};

/// Throws UsageError when the options do not suit the data: B above the training samples, a
/// statistics group of one sample, which has no variance, too many weights, or an augmentation of
/// what is no image.
void check_options(const Options& options, const Dataset& data, int ranks);

class Trainer {
 public:
  /// Told after each step and each batch of an evaluation: what was done, and the steps so far.
  using OnProgress = std::function<void(const char* phase, int64_t step)>;
  /// Asked after each step of train_epoch; false: stop here. `looked`: the host has waited for the
  /// step to be done, as it does after every step on the CPU and now and then on CUDA (look_every).
  using AfterStep = std::function<bool(bool looked)>;

  /// Collective. `comm`: all ranks, for tensors on `device`. `data` must outlive the trainer.
  /// `look_every`: after how many steps train_epoch looks at the loss, which waits for the device;
  /// 0: each step on the CPU, every 50th on CUDA. What is trained and measured does not depend on
  /// it. Throws UsageError as check_options.
  Trainer(CommPtr comm, const Options& options, const Dataset& data, at::Device device,
          int64_t look_every = 0);

  void on_progress(OnProgress on_progress) { on_progress_ = std::move(on_progress); }
  void after_step(AfterStep after_step) { after_step_ = std::move(after_step); }

  int64_t batch() const { return batch_; }  ///< B
  int64_t step() const { return step_; }    ///< steps done
  int64_t steps_per_epoch() const { return sampler_.steps_per_epoch(); }
  int64_t samples_per_epoch() const;
  int64_t steps_in_all() const;   ///< epochs, or train.max_steps if fewer
  int64_t epochs_in_all() const;  ///< that these steps begin
  double learning_rate(int64_t step) const { return rate_.at(step); }
  double base_learning_rate() const { return rate_.base(); }  ///< after its rule, before warm-up
  const Options& options() const { return options_; }
  const Dataset& data() const { return data_; }
  const Sharding& sharding() const { return sharding_; }
  Communicator& comm() { return *comm_; }
  const Network& network() const { return network_; }
  Replica& replica() { return replica_; }
  /// Seconds of this rank since the last call.
  StepTimes take_times();

  /// Collective. Trains what is left of epoch `epoch` (0-based, the one that step() is in or ends),
  /// or as much of it as train.max_steps leaves. Returns loss and accuracy of all its samples as
  /// they were met, under the weights of their step; nothing if after_step stopped it.
  /// Throws DivergedError on all ranks at the first look at a loss that is not finite: in its step,
  /// or within `look_every` steps of it.
  std::optional<Score> train_epoch(int64_t epoch);

  /// Throws DivergedError if the loss of the last step is not finite; waits for the device.
  void check_loss() const { check_finite(replica_.reduced_loss(), "training"); }

  /// What the steps since the last call have met: the sum of their batches' losses, and the loss
  /// sum of the very first batch (NaN in a trainer that was restored). Both are kept on the device,
  /// so that no look is needed for them. Throws DivergedError if the sum is not finite; waits for
  /// the device.
  struct Met {
    double loss_sum = 0, first_loss = 0;
  };
  Met take_met();

  /// The two halves of train_epoch: make the order of an epoch, then (collective) take one step on
  /// the samples of its global batch `k`.
  void start_epoch(int64_t epoch);
  void train_step(int64_t k);

  /// Collective. Loss and accuracy over a split, with the statistics of norm.eval. `recomputed`
  /// statistics are pooled over the training set for this call; `keep_statistics` leaves them in
  /// the place of the running ones, which otherwise come back. Throws DivergedError if the loss is
  /// not finite.
  Score evaluate(const Split& split, bool keep_statistics = false);
  /// Collective. The same over the first `samples` (-1: all) of the training, validation or test
  /// split and with these statistics. kBatch: of groups of M in batches of B; a last batch that
  /// would have a group of one sample takes samples before it in, which are not counted twice. The
  /// loss may be infinite or NaN.
  Score score(const Split& split, Statistics statistics, int64_t samples = -1);

  /// Collective. As replica().check_equal(), of the optimizer's moments too.
  void check_replicas() const { replica_.check_equal(optimizer_state()); }

  /// Collective. All that training goes on from: state_dict(), "optimizer.…", and what the epoch so
  /// far has summed up. The same on every rank and for any number of ranks; what is not a copy
  /// shares memory with the trainer.
  NamedTensors state();
  /// Goes on from such a state, after `step` steps, on every rank alike.
  void restore(const NamedTensors& state, int64_t step);

  /// Collective. Replaces the running statistics by exact ones: mean and variance, pooled by count,
  /// of what each norm layer receives over the first `samples` (-1: all) of the training set in
  /// batches of B, each normalised by its own groups of M (PreciseBN: Wu and Johnson, 2021, section
  /// 3).
  void recompute_statistics(int64_t samples = -1);
  /// Copies of the running statistics, one (2C) per batch-norm layer: means, then variances.
  std::vector<at::Tensor> running_statistics() const;
  /// Puts such copies back.
  void set_running_statistics(const std::vector<at::Tensor>& statistics);

  /// Collective. The training samples `samples[0 … count)` as one batch through the network, with
  /// running statistics; returns which of its rows are this rank's. The network then holds what
  /// each layer made of them. At most evaluation_batch() samples.
  Range look_forward(const int64_t* samples, int64_t count);
  int64_t evaluation_batch() const { return evaluation_batch_; }
  /// Collective. The gradient of the mean loss of at most B training samples, by groups of M and
  /// without dropout, in replica().gradients(); and their loss in replica().loss(). Weights,
  /// running statistics and all else that training goes on from stay as they are.
  void look_backward(const int64_t* samples, int64_t count, const Network::Look& look = {});

 private:
  // Of a batch of this size: what all calls on it have in common.
  StepContext context_of(int64_t batch);
  BatchGather& gather_of(const Split& split);
  // Logits of this rank's rows of the batch of these samples, whose labels are then in labels_.
  const at::Tensor& forward_only(BatchGather& gather, const int64_t* samples, StepContext& context);
  void begin_epoch(int64_t epoch);
  // Collective. (): the samples of the epoch so far that were classified rightly, on all ranks.
  at::Tensor summed_correct();
  NamedTensors optimizer_state() const;  // under the names of state()
  void check_finite(double loss, const char* which) const;
  void pace();

  CommPtr comm_;
  Options options_;
  const Dataset& data_;
  at::Device device_;
  OnProgress on_progress_;
  AfterStep after_step_;
  Sharding sharding_;
  int64_t look_every_;
  int64_t batch_, evaluation_batch_, capacity_;
  BatchSampler sampler_;
  Network network_;
  Replica replica_;
  Optimizer optimizer_;
  LearningRate rate_;
  StatsGrouping grouping_;
  StatsGrouping whole_;  // one row per shard, all in one group: for sums over shards
  std::map<int64_t, std::vector<Range>> shard_rows_;  // by batch size
  BatchGather train_gather_, validation_gather_, test_gather_;
  Augmentation augmentation_;        // of what is trained on, and of nothing that is measured
  std::array<DeviceMark, 2> marks_;  // the ends of the last two calls of the network, in turn
  size_t turn_ = 0;
  at::Tensor labels_;                  // (capacity) int64
  at::Tensor totals_;                  // (shards, 2) float64: loss and correct of one call
  at::Tensor step_loss_, epoch_loss_;  // (1) float64, of all ranks
  at::Tensor met_loss_, first_loss_;   // (1) float64, of all ranks, as take_met gives them
  at::Tensor epoch_correct_;           // (shards, 1) float64, of this rank
  std::vector<int64_t> in_order_;
  StepTimes times_;
  int64_t step_ = 0;
  int64_t summed_epoch_ = -1;  // that epoch_loss_ and epoch_correct_ are of
};

}  // namespace syncbn
