#include "nn/batch_norm_derivative.hpp"

#include <ATen/ATen.h>

#include <vector>

#include "nn/saved_communicator.hpp"
#include "nn/sum_over_ranks.hpp"

namespace syncbn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// t (C) → (1, C, 1, …) with the dimensions of x.
at::Tensor per_channel(const at::Tensor& t, const at::Tensor& x) {
  std::vector<int64_t> sizes(static_cast<size_t>(x.dim()), 1);
  sizes[1] = t.size(0);
  return t.view(sizes);
}

/// x (n, C, …) → its sum per channel (C).
at::Tensor channel_sums(const at::Tensor& x) {
  std::vector<int64_t> others = {0};
  for (int64_t d = 2; d < x.dim(); ++d) others.push_back(d);
  return x.sum(others);
}

/// Mean and biased variance (C) of x over all ranks. The forward has found them already, so they
/// are taken from its stats; what this adds is their derivative by the x of every rank:
/// d mean/dx = 1/m and d variance/dx = 2·(x − mean)/m.
struct BatchMoments : public torch::autograd::Function<BatchMoments> {
  static variable_list forward(AutogradContext* context, const at::Tensor& x,
                               const at::Tensor& stats, const CommPtr& comm) {
    const int64_t features = x.size(1);
    const at::Tensor count = stats[0][0];
    at::Tensor mean = stats[0].narrow(0, 1, features).clone();
    at::Tensor variance = stats[0].narrow(0, 1 + features, features) / count;
    context->save_for_backward({x, mean, count});
    save_communicator(*context, comm);
    return {mean, variance};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &mean = saved[1], &count = saved[2];
    const at::Tensor sums =
        sum_over_ranks(at::stack({gradients[0], gradients[1]}), saved_communicator(*context)) /
        count;  // (2, C)
    return {
        per_channel(sums[0], x) + 2 * (x - per_channel(mean, x)) * per_channel(sums[1], x), {}, {}};
  }
};

}  // namespace

BatchNormGradients differentiable_gradients(const at::Tensor& x, const at::Tensor& gamma,
                                            const at::Tensor& stats, const at::Tensor& dy,
                                            double eps, const CommPtr& comm) {
  const at::Tensor wide = x.to(at::kDouble), gradient = dy.to(at::kDouble);
  const variable_list moments = BatchMoments::apply(wide, stats, comm);
  const at::Tensor inv_std = (moments[1] + eps).rsqrt();
  const at::Tensor x_hat = (wide - per_channel(moments[0], x)) * per_channel(inv_std, x);
  const at::Tensor own =
      at::stack({channel_sums(gradient), channel_sums(gradient * x_hat)});  // (2, C)
  const at::Tensor sums = sum_over_ranks(own, comm) / stats[0][0];
  const at::Tensor dx = (gradient - per_channel(sums[0], x) - x_hat * per_channel(sums[1], x)) *
                        per_channel(inv_std * gamma.to(at::kDouble), x);
  at::Tensor laid_out = at::empty_like(x, x.suggest_memory_format());
  laid_out.copy_(dx);
  return {laid_out, own[1].to(gamma.scalar_type()), own[0].to(gamma.scalar_type())};
}

}  // namespace syncbn
