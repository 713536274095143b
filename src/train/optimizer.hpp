// Optimizers on the flat parameter tensor, by ATen's fused kernels, and the learning rate of a
// step.
//
// They are torch.optim.SGD, Adam and AdamW (Loshchilov and Hutter, 2019) with PyTorch's meaning of
// every option. Not collective: each rank applies the same reduced gradient to the same parameters.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "base/options.hpp"
#include "base/range.hpp"

namespace syncbn {

class Optimizer {
 public:
  /// parameters, gradients: (N), same dtype and device. `weights`: the elements, in increasing
  /// ranges, that options.weight_decay acts on if options.decay is weights.
  Optimizer(const TrainOptions& options, const at::Tensor& parameters, const at::Tensor& gradients,
            const std::vector<Range>& weights);
  /// Clips the gradient's norm to options.clip where set (as torch.nn.utils.clip_grad_norm_), then
  /// takes one step of rate `lr`.
  void step(double lr);

  /// The moments under the names of torch.optim's state ("momentum_buffer"; "exp_avg",
  /// "exp_avg_sq"), each (N); they share memory with the optimizer.
  std::vector<std::pair<std::string, at::Tensor>> state() const;
  /// That the state now holds what `steps` steps have left.
  void set_steps(int64_t steps) { taken_ = steps; }

 private:
  /// Parts of the flat tensors with one decay, as the kernels take them.
  struct Group {
    double decay;
    std::vector<at::Tensor> parameters, gradients, average, squared_average, steps;
  };
  void add_group(double decay, const std::vector<Range>& parts);
  void clip();

  TrainOptions options_;
  at::Tensor parameters_, gradients_;     // (N)
  at::Tensor average_, squared_average_;  // (N): momentum buffer; Adam's second
  at::Tensor steps_;                      // (): Adam's count
  std::vector<Group> groups_;             // views of the above
  at::Tensor clip_, tiny_, factor_;  // (): the largest norm, its guard, what clipping multiplies by
  int64_t taken_ = 0;                // steps
};

/// The learning rate of each step, a pure function of the step.
///
///   base      scaled_rate(options, B)
///   warm-up   base · (s + 1)/warmup_steps for step s < warmup_steps
///   constant  base
///   step      base · gamma^(milestones that the epoch has reached)
///   cosine    base · (1 + cos(π s/S))/2, S = train.epochs × steps per epoch
///             (Loshchilov and Hutter, 2017, equation 5)
class LearningRate {
 public:
  LearningRate(const TrainOptions& options, int64_t batch, int64_t steps_per_epoch);
  double at(int64_t step) const;
  double base() const { return base_; }

 private:
  TrainOptions options_;
  double base_;
  int64_t steps_per_epoch_;
  std::vector<int64_t> milestones_;
};

}  // namespace syncbn
