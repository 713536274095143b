// The oracle: the same network in one process, on the whole batch, with autograd's derivatives.
//
// Layers are read off a syncbn::Network by their types, weights off a state dict. Batch norm over
// the whole batch is torch's own (at::batch_norm, what torch::nn::BatchNorm1d calls); over groups
// of M it is written out in plain tensor operations, so that autograd derives its backward.
#pragma once

#include <torch/torch.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/options.hpp"
#include "nn/network.hpp"

namespace syncbn::test {

class Reference {
 public:
  using StateDict = std::vector<std::pair<std::string, at::Tensor>>;

  Reference(const Network& network, const StateDict& state, const NormOptions& norm) : norm_(norm) {
    for (const auto& layer : network.layers()) types_.push_back(layer->type());
    for (const auto& [name, value] : state) {
      state_[name] = value.detach().cpu().clone();
      if (name.find("running") == std::string::npos && value.is_floating_point()) {
        state_[name].set_requires_grad(true);
        parameters_.push_back(state_[name]);
      }
    }
  }

  std::vector<at::Tensor>& parameters() { return parameters_; }
  const at::Tensor& at(const std::string& name) const { return state_.at(name); }

  /// x (b, inputs) → logits; statistics over groups of `group` samples; updates running statistics.
  at::Tensor forward(at::Tensor x, int64_t group) {
    for (size_t i = 0; i < types_.size(); ++i) x = layer(std::to_string(i), types_[i], x, group);
    return x;
  }

  /// Loss of the batch, with gradients in parameters()[i].grad().
  double backward(const at::Tensor& x, const at::Tensor& labels, int64_t group) {
    for (auto& p : parameters_) p.mutable_grad() = at::Tensor();
    const at::Tensor loss = torch::nn::functional::cross_entropy(forward(x, group), labels);
    loss.backward();
    return loss.item<double>();
  }

 private:
  at::Tensor layer(const std::string& i, const std::string& type, const at::Tensor& x,
                   int64_t group) {
    if (type == "Linear") return torch::linear(x, state_[i + ".weight"], state_[i + ".bias"]);
    if (type == "ReLU") return torch::relu(x);
    if (type == "Sigmoid") return torch::sigmoid(x);
    if (type == "Tanh") return torch::tanh(x);
    if (type == "LayerNorm") {
      return torch::layer_norm(x, {x.size(1)}, state_[i + ".weight"], state_[i + ".bias"],
                               norm_.eps);
    }
    if (type == "Dropout") return x;  // at rest
    TORCH_CHECK(type == "BatchNorm1d", "no reference for ", type);
    return group >= x.size(0) ? whole_batch(i, x) : grouped(i, x, group);
  }

  at::Tensor whole_batch(const std::string& i, const at::Tensor& x) {
    return torch::batch_norm(x, state_[i + ".weight"], state_[i + ".bias"],
                             state_[i + ".running_mean"], state_[i + ".running_var"],
                             /*training=*/true, norm_.momentum, norm_.eps, /*cudnn_enabled=*/false);
  }

  at::Tensor grouped(const std::string& i, const at::Tensor& x, int64_t group) {
    std::vector<at::Tensor> outputs;
    at::Tensor mean_of_batch =
        torch::zeros({x.size(1)}, x.options());  // the running ones take these
    at::Tensor var_of_batch = torch::zeros({x.size(1)}, x.options());
    for (int64_t first = 0; first < x.size(0); first += group) {
      const at::Tensor rows = x.narrow(0, first, std::min(group, x.size(0) - first));
      const auto n = static_cast<double>(rows.size(0));
      const at::Tensor mean = rows.mean(0), deviation = rows - mean;
      const at::Tensor variance = (deviation * deviation).mean(0);
      outputs.push_back(deviation / (variance + norm_.eps).sqrt() * state_[i + ".weight"] +
                        state_[i + ".bias"]);
      const double weight = n / static_cast<double>(x.size(0));
      mean_of_batch += mean.detach() * weight;
      var_of_batch += variance.detach() * (n / (n - 1)) * weight;
    }
    state_[i + ".running_mean"].mul_(1 - norm_.momentum).add_(mean_of_batch, norm_.momentum);
    state_[i + ".running_var"].mul_(1 - norm_.momentum).add_(var_of_batch, norm_.momentum);
    return torch::cat(outputs);
  }

  NormOptions norm_;
  std::vector<std::string> types_;
  std::map<std::string, at::Tensor> state_;
  std::vector<at::Tensor> parameters_;
};

/// Largest difference relative to the largest value (at least 1e-300), compared on the CPU.
inline double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.detach().cpu().to(at::kDouble);
  const at::Tensor y = b.detach().cpu().to(at::kDouble);
  if (x.numel() == 0) return 0;
  return ((x - y).abs().max() / y.abs().max().clamp_min(1e-300)).item<double>();
}

}  // namespace syncbn::test
