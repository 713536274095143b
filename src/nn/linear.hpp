// Fully connected layer, as torch.nn.Linear: y = x Wᵀ + b, weight (out, in), bias (out).
#pragma once

#include "base/options.hpp"
#include "nn/layer.hpp"

namespace syncbn {

/// Initial weight (out, in) and bias (out), CPU float64, a pure function of (seed, index).
///   torch   both uniform in ±1/√in (PyTorch's Linear.reset_parameters)
///   he      normal, deviation √(2/in); bias 0 (He et al., 2015, section 2.2, equation 10)
///   glorot  uniform in ±√(6/(in+out)); bias 0 (Glorot and Bengio, 2010, equation 16)
///   normal  normal, deviation init_std; bias 0
struct LinearInit {
  at::Tensor weight, bias;
};
LinearInit initial_linear(int64_t in, int64_t out, const ModelOptions& options, uint64_t seed,
                          uint64_t index);

class Linear : public Layer {
 public:
  Linear(int64_t in, int64_t out, LinearInit init) : in_(in), out_(out), init_(std::move(init)) {}

  std::string type() const override { return "Linear"; }
  int64_t in_features() const override { return in_; }
  int64_t out_features() const override { return out_; }
  bool gradient_in_place() const override { return false; }
  void forward(const at::Tensor& x, at::Tensor& y, const StepContext&) override;
  void backward(const at::Tensor& x, const at::Tensor& y, at::Tensor& dy, at::Tensor& dx,
                const StepContext&) override;
  std::vector<ParameterSpec> parameters() const override;
  void bind(const Binding& binding) override;

 private:
  int64_t in_, out_;
  LinearInit init_;
  at::Tensor weight_, weight_t_, bias_, weight_gradient_, bias_gradient_;
};

}  // namespace syncbn
