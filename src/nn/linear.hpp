// Fully connected layer, as torch.nn.Linear: y = x Wᵀ + b, weight (out, in), bias (out).
#pragma once

#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "base/options.hpp"
#include "nn/layer.hpp"
#include "nn/shard_gradients.hpp"

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

/// Canonical results are those of each shard's rows multiplied by one thread, in the shard's own
/// shape and in memory that always lies alike: they depend neither on what else a rank holds nor on
/// its threads. All rows at once and all threads are used where a trial on random numbers, made
/// once per shape, finds the same bits.
class Linear : public Layer {
 public:
  Linear(int64_t in, int64_t out, LinearInit init) : in_(in), out_(out), init_(std::move(init)) {}

  std::string type() const override { return "Linear"; }
  int64_t in_features() const override { return in_; }
  int64_t out_features() const override { return out_; }
  bool gradient_in_place() const override { return false; }
  void forward(const at::Tensor& x, at::Tensor& y, const StepContext& context) override;
  void backward(const at::Tensor& x, const at::Tensor& y, at::Tensor& dy, at::Tensor& dx,
                const StepContext& context) override;
  std::vector<ParameterSpec> parameters() const override;
  void bind(const Binding& binding) override;

 private:
  struct Weights {
    at::Tensor weight, weight_t, bias;  // (out, in), its transpose, (out)
  };
  // Of rows: in (n, ·) → out (n, ·). Forward, or the gradient of the input.
  using Product = void (*)(const at::Tensor& in, const Weights& weights, at::Tensor& out);
  struct Scratch {
    at::Tensor in, out;
    std::map<const std::vector<Range>*, bool> at_once;  // the address stands for the values
  };
  void multiply(const at::Tensor& in, const std::vector<Range>& shards, const Product& product,
                Scratch& scratch, at::Tensor& out);
  // Whether one product of all rows has the bits of the shards' own.
  bool same_at_once(const at::Tensor& like_in, const at::Tensor& like_out,
                    const std::vector<Range>& shards, const Product& product,
                    Scratch& scratch) const;
  void by_shards(const at::Tensor& in, const std::vector<Range>& shards, const Product& product,
                 Scratch& scratch, at::Tensor& out) const;

  int64_t in_, out_;
  LinearInit init_;
  Weights weights_;
  std::vector<at::Tensor> weight_gradients_, bias_gradients_;  // one per node
  std::optional<WeightGradient> weight_gradient_;
  std::vector<TreeSum> sums_;
  at::Tensor bias_parts_;  // (shards, out)
  bool canonical_ = false;
  Scratch forward_, backward_;
};

}  // namespace syncbn
