// Elementwise layers: activations and dropout.
#pragma once

#include <memory>
#include <string>

#include "comm/overlap.hpp"
#include "nn/activation_kind.hpp"
#include "nn/layer.hpp"

namespace syncbn {

/// relu | sigmoid | tanh; throws Error for any other name.
Activation activation_named(const std::string& name);

/// y ← f(x), by ATen, on any device; y may be x, and is taken to be it for kNone.
void activate(Activation activation, const at::Tensor& x, at::Tensor& y);
/// dx ← dy·f'(x), the derivative taken from y = f(x); dx may be dy, and is taken to be it for
/// kNone.
void activation_gradient(Activation activation, const at::Tensor& y, const at::Tensor& dy,
                         at::Tensor& dx);

/// The activation as a layer, in place. `applied`: the norm layer before it has applied it already,
/// and it only keeps its place and index in the model.
std::unique_ptr<Layer> make_activation(Activation activation, int64_t features, bool applied);

/// Inverted dropout (Srivastava et al., 2014, section 10; scaled by 1/(1−p) in training, identity
/// in evaluation). The mask of unit c of sample i of the global batch at step s is a pure function
/// of (seed, layer, s, i, c): the same on any number of ranks. It is made on the CPU and copied to
/// a CUDA device without waiting for it.
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
  at::Tensor mask_;  // (largest n so far, features): 0 or 1/(1−p), x's dtype and device
  std::unique_ptr<HostStaging> staging_;  // of mask_; null on the CPU
};

}  // namespace syncbn
