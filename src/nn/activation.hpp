// Elementwise layers: activations and dropout.
#pragma once

#include <memory>

#include "nn/layer.hpp"

namespace syncbn {

/// ReLU, sigmoid or tanh, in place; the derivative is taken from the output.
std::unique_ptr<Layer> make_activation(const std::string& name, int64_t features);

/// A ReLU that the norm layer before it has already applied; keeps its place and index in the
/// model.
std::unique_ptr<Layer> make_fused_relu(int64_t features);

/// Inverted dropout (Srivastava et al., 2014, section 10; scaled by 1/(1−p) in training, identity
/// in evaluation). The mask of unit c of sample i of the global batch at step s is a pure function
/// of (seed, layer, s, i, c): the same on any number of ranks. It is made on the CPU; its copy to a
/// CUDA device is the one thing in a step that the host waits for.
class Dropout : public Layer {
 public:
  /// `index` tells this layer's masks from the others'.
  Dropout(int64_t features, double probability, uint64_t seed, uint64_t index)
      : features_(features), probability_(probability), seed_(seed), index_(index) {}
  std::string type() const override { return "Dropout"; }
  int64_t in_features() const override { return features_; }
  int64_t out_features() const override { return features_; }
  void forward(const at::Tensor& x, at::Tensor& y, const StepContext& context) override;
  void backward(const at::Tensor& x, const at::Tensor& y, at::Tensor& dy, at::Tensor& dx,
                const StepContext& context) override;

 private:
  void make_mask(const at::Tensor& x, const StepContext& context);

  int64_t features_;
  double probability_;
  uint64_t seed_, index_;
  at::Tensor mask_;       // (largest n so far, features): 0 or 1/(1−p), x's dtype and device
  at::Tensor host_mask_;  // the same on the CPU
};

}  // namespace syncbn
