#include "nn/layer_norm.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <tuple>

#include "nn/norm_loops.hpp"
#include "nn/shard_gradients.hpp"

namespace syncbn {

LayerNorm::LayerNorm(int64_t features, double eps)
    : features_(features), eps_(eps), sums_(at::zeros({2, features}, at::kDouble)) {}

void LayerNorm::forward(const at::Tensor& x, at::Tensor& y, const StepContext&) {
  if (!x.is_cpu()) {
    at::Tensor normalised;
    std::tie(normalised, mean_, inv_std_) =
        at::native_layer_norm(x, {features_}, weight_, bias_, eps_);
    y.copy_(normalised);
    return;
  }
  const int64_t n = x.size(0);
  if (!mean_.defined() || mean_.size(0) < n) {
    mean_ = at::zeros({n}, at::kDouble);
    inv_std_ = at::zeros({n}, at::kDouble);
  }
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    loops::layer_norm(x.const_data_ptr<T>(), {n, features_, features_}, weight_.const_data_ptr<T>(),
                      bias_.const_data_ptr<T>(), eps_, mean_.mutable_data_ptr<double>(),
                      inv_std_.mutable_data_ptr<double>(), y.mutable_data_ptr<T>());
  };
  x.scalar_type() == at::kFloat ? run(float{}) : run(double{});
}

void LayerNorm::backward(const at::Tensor& x, const at::Tensor&, at::Tensor& dy, at::Tensor& dx,
                         const StepContext& context) {
  const auto on_device = [&](int64_t s, Range r) {
    const auto part = [&](const at::Tensor& t) { return t.narrow(0, r.begin, r.size()); };
    const auto gradients =
        at::native_layer_norm_backward(part(dy), part(x), {features_}, part(mean_), part(inv_std_),
                                       weight_, bias_, {true, true, true});
    part(dx).copy_(std::get<0>(gradients));
    weight_parts_[s].copy_(std::get<1>(gradients));
    bias_parts_[s].copy_(std::get<2>(gradients));
  };
  const auto on_cpu = [&](auto zero, int64_t s, Range r) {
    using T = decltype(zero);
    const int64_t first = r.begin * features_;
    auto* sums = sums_.mutable_data_ptr<double>();
    loops::layer_norm_backward(x.const_data_ptr<T>() + first, dy.const_data_ptr<T>() + first,
                               {r.size(), features_, features_}, weight_.const_data_ptr<T>(),
                               mean_.const_data_ptr<double>() + r.begin,
                               inv_std_.const_data_ptr<double>() + r.begin, sums, sums + features_,
                               dx.mutable_data_ptr<T>() + first);
    std::copy_n(sums, features_, weight_parts_.mutable_data_ptr<T>() + s * features_);
    std::copy_n(sums + features_, features_, bias_parts_.mutable_data_ptr<T>() + s * features_);
  };
  int64_t s = 0;
  for (const Range rows : *context.shards) {
    if (!x.is_cpu()) {
      on_device(s, rows);
    } else if (x.scalar_type() == at::kFloat) {
      on_cpu(float{}, s, rows);
    } else {
      on_cpu(double{}, s, rows);
    }
    ++s;
  }
  sum_shards(node_sums_, weight_parts_, weight_gradients_);
  sum_shards(node_sums_, bias_parts_, bias_gradients_);
}

std::vector<ParameterSpec> LayerNorm::parameters() const {
  return {{"weight", {features_}, at::ones({features_}, at::kDouble)},
          {"bias", {features_}, at::zeros({features_}, at::kDouble)}};
}

void LayerNorm::bind(const Binding& binding) {
  weight_ = binding.parameters[0];
  bias_ = binding.parameters[1];
  weight_gradients_ = binding.gradients[0];
  bias_gradients_ = binding.gradients[1];
  node_sums_ = binding.sharding.node_sums();
  weight_parts_ = at::zeros({binding.sharding.mine().size(), features_}, weight_.options());
  bias_parts_ = at::zeros_like(weight_parts_);
}

}  // namespace syncbn
