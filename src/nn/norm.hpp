// Norm layers and the table of their kinds.
//
// BatchNorm is torch.nn.BatchNorm1d over (n, C) with statistics from a group of samples that may
// span ranks, be a part of one rank's rows, or both (nn/stats_groups.hpp). It normalises with the
// biased variance; the running variance takes the unbiased one with the *group's* count (Ioffe and
// Szegedy, 2015, algorithm 2, step 10), or the biased one where Keras is to be matched.
//
// Running statistics change once per step by the average over the batch's groups, each weighted by
// its samples. That average travels with the gradient: a layer writes its rows' part of it into
// `reduced`, the gradient all-reduce adds the parts up, and after_reduce folds the sum in. So
// running statistics are the same bits on every rank, need no collective of their own, and depend
// on (B, M) alone.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/options.hpp"
#include "nn/layer.hpp"
#include "nn/norm_exchange.hpp"

namespace syncbn {

class BatchNorm : public Layer {
 public:
  /// `relu`: also apply the ReLU that follows, in the same pass (make_fused_relu takes its place).
  BatchNorm(int64_t features, const NormOptions& options, bool relu, at::ScalarType dtype,
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

  /// Pooled moments of the rows seen with context.collect since the last call, (1, 2C+1) float64 on
  /// this rank; then forgotten. All zero if there were none.
  at::Tensor take_collected();
  /// Sets the running mean and variance from moments (1, 2C+1).
  void set_running(const at::Tensor& moments);
  /// The running statistics (2C): means, then variances. Shares memory with the layer.
  at::Tensor& running() { return running_; }

 private:
  void collect();
  void contribute(const StepContext& context);
  // What is taken off the count in the running variance's divisor.
  double bessel() const { return options_.running_variance == "unbiased" ? 1 : 0; }

  int64_t features_;
  NormOptions options_;
  bool relu_;
  at::Tensor weight_, bias_, weight_gradient_, bias_gradient_;
  at::Tensor reduced_, reduced_mean_, reduced_var_;  // (2C), and its halves
  at::Tensor running_, running_mean_, running_var_;  // (2C) dtype, and its halves
  at::Tensor batches_;                               // () int64, CPU: num_batches_tracked
  at::Tensor running_stats_;  // (1, 2C+1): the running statistics as moments of count 1
  at::Tensor collected_;      // (1, 2C+1)
  std::vector<double> mean_weights_, variance_weights_;
  NormExchange exchange_;
};

/// Layer normalisation over the features of each sample, as torch.nn.LayerNorm (Ba, Kiros and
/// Hinton, 2016, equation 4): the control that knows no batch.
class LayerNorm : public Layer {
 public:
  LayerNorm(int64_t features, double eps) : features_(features), eps_(eps) {}
  std::string type() const override { return "LayerNorm"; }
  int64_t in_features() const override { return features_; }
  int64_t out_features() const override { return features_; }
  void forward(const at::Tensor& x, at::Tensor& y, const StepContext&) override;
  void backward(const at::Tensor& x, const at::Tensor& y, at::Tensor& dy, at::Tensor& dx,
                const StepContext&) override;
  std::vector<ParameterSpec> parameters() const override;
  void bind(const Binding& binding) override;

 private:
  int64_t features_;
  double eps_;
  at::Tensor weight_, bias_, weight_gradient_, bias_gradient_, mean_, inv_std_;
};

/// A norm layer of options.kind (none | batch | layer); `fuse_relu` asks whether a ReLU follows and
/// tells on return whether the layer applies it. null for "none".
std::unique_ptr<Layer> make_norm(const NormOptions& options, int64_t features, at::ScalarType dtype,
                                 at::Device device, bool& fuse_relu);

}  // namespace syncbn
