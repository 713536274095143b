// Layer normalisation over the features of each sample, as torch.nn.LayerNorm (Ba, Kiros and
// Hinton, 2016, equation 4): the control that knows no batch. On CPU its statistics and sums are
// float64, and nothing is allocated once the largest n was seen; on CUDA it is ATen's.
#pragma once

#include <string>
#include <vector>

#include "nn/layer.hpp"

namespace syncbn {

class LayerNorm : public Layer {
 public:
  LayerNorm(int64_t features, double eps);
  std::string type() const override { return "LayerNorm"; }
  int64_t in_features() const override { return features_; }
  int64_t out_features() const override { return features_; }
  void forward(const at::Tensor& x, at::Tensor& y, const StepContext&) override;
  void backward(const at::Tensor& x, const at::Tensor& y, at::Tensor& dy, at::Tensor& dx,
                const StepContext& context) override;
  std::vector<ParameterSpec> parameters() const override;
  void bind(const Binding& binding) override;

 private:
  int64_t features_;
  double eps_;
  at::Tensor weight_, bias_;
  std::vector<at::Tensor> weight_gradients_, bias_gradients_;  // one per node
  std::vector<TreeSum> node_sums_;
  at::Tensor mean_, inv_std_;             // of each row; on CPU (largest n so far) float64
  at::Tensor sums_;                       // (2, C) float64, CPU: one shard's gradients
  at::Tensor weight_parts_, bias_parts_;  // (shards, C)
};

}  // namespace syncbn
