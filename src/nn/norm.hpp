// Norm layers and the table of their kinds.
//
// BatchNorm is torch.nn.BatchNorm1d over (n, C) with statistics from a group of samples that may
// span ranks, be a part of one rank's rows, or both (nn/stats_groups.hpp). It normalises with the
// biased variance; the running variance takes the unbiased one with the *group's* count (Ioffe and
// Szegedy, 2015, algorithm 2, step 10), or the biased one where Keras is to be matched.
//
// Running statistics change once per step by the average over the batch's groups, each weighted by
// its samples. That average travels with the gradient: a layer writes its shards' part of it into
// `reduced`, the gradient's sum over shards adds the parts up, and after_reduce folds the sum in.
// So running statistics are the same bits on every rank, need no collective of their own, and
// depend on (B, M) alone.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/options.hpp"
#include "nn/activation_kind.hpp"
#include "nn/layer.hpp"
#include "nn/tree_exchange.hpp"

namespace syncbn {

class BatchNorm : public Layer {
 public:
  /// `activation`: the one that follows, applied in the same pass; or kNone.
  BatchNorm(int64_t features, NormOptions options, Activation activation, at::ScalarType dtype,
            at::Device device);

  std::string type() const override { return "BatchNorm1d"; }
  int64_t in_features() const override { return features_; }
  int64_t out_features() const override { return features_; }
  void forward(const at::Tensor& x, at::Tensor& y, const StepContext& context) override;
  void backward(const at::Tensor& x, const at::Tensor& y, at::Tensor& dy, at::Tensor& dx,
                const StepContext& context) override;
  std::vector<ParameterSpec> parameters() const override;
  std::vector<BufferSpec> buffers() const override;
  int64_t reduced() const override { return 2 * features_; }
  void bind(const Binding& binding) override;
  void after_reduce() override;

  /// Pooled moments of the rows of each of this rank's shards, (shards, 2C+1) float64, seen with
  /// context.collect since the last call; then forgotten. All zero if there were none.
  at::Tensor take_collected();
  /// Sets the running mean and variance from moments (2C+1).
  void set_running(const at::Tensor& moments);
  /// The running statistics (2C): means, then variances. Shares memory with the layer.
  at::Tensor& running() { return running_; }

 private:
  void prepare(const StepContext& context);
  void collect(const StatsGroups& groups);
  void sum_pieces(const at::Tensor& table, int64_t first, const std::vector<double>& weights,
                  std::vector<at::Tensor>& places);
  // What is taken off the count in the running variance's divisor.
  double bessel() const { return options_.running_variance == "unbiased" ? 1 : 0; }

  int64_t features_;
  int layer_ = -1;  // in the network
  NormOptions options_;
  Activation activation_;
  at::Tensor weight_, bias_;
  at::Tensor reduced_;  // (2C): the batch's mean and variance, once summed
  // Places of sums over shards, one per node.
  std::vector<at::Tensor> weight_gradients_, bias_gradients_, mean_places_, variance_places_;
  at::Tensor running_, running_mean_, running_var_;  // (2C) dtype, and its halves
  at::Tensor batches_;                               // () int64, CPU: num_batches_tracked
  at::Tensor running_stats_;  // (1, 2C+1): the running statistics as moments of count 1
  at::Tensor collected_;      // (shards, 2C+1)
  // Of this rank's pieces: their rows, the pieces of each shard, and their weights in the running
  // statistics and (1) in the parameters' gradient.
  std::vector<Range> rows_, runs_;
  std::vector<double> mean_weights_, variance_weights_, once_;
  std::vector<TreeSum> node_sums_;
  at::Tensor parts_;           // (shards, C)
  TreeExchange stats_, sums_;  // (P, 2C+1) moments, (P, 2C) Σ dy and Σ dy·x̂
};

/// The activation that a norm layer of these options applies in its own passes if it follows, or
/// kNone if the layer leaves it to another.
Activation fusible(const NormOptions& options, Activation follows);

/// A norm layer of options.kind (none | batch | layer), with `activation` applied (what fusible
/// says, or kNone). null for "none".
std::unique_ptr<Layer> make_norm(const NormOptions& options, int64_t features,
                                 Activation activation, at::ScalarType dtype, at::Device device);

}  // namespace syncbn
