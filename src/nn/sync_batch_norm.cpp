#include "nn/sync_batch_norm.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

#include "nn/norm_kernels.hpp"
#include "nn/tree_exchange.hpp"

namespace syncbn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Carries the communicator from forward to backward.
struct CommHolder : public torch::CustomClassHolder {
  explicit CommHolder(CommPtr c) : comm(std::move(c)) {}
  CommPtr comm;
};

// All rows of this rank, in one group with all rows of the others: one shard per rank.
StatsGroups one_group(const CommPtr& comm, int64_t rows) {
  const int64_t ranks = comm->size();
  StatsGroups groups;
  groups.pieces = {{{0, rows}, /*shard=*/0, /*group_samples=*/0}};
  groups.sends = {{{0}, {0}}};
  groups.slots = 1;
  StatsGroups::Total total;
  for (int64_t r = 0; r < ranks; ++r) total.sum.parts.push_back(r);
  total.sum.merges = tree_merges(ranks, Range{0, ranks});
  total.gathered = true;
  total.pieces = {0, 1};
  groups.totals = {std::move(total)};
  groups.comm = comm;
  return groups;
}

struct Normalise : public torch::autograd::Function<Normalise> {
  // → y (n, C), and the group's stats (1, 2C+1), which carry no gradient.
  static variable_list forward(AutogradContext* context, const at::Tensor& x,
                               const at::Tensor& weight, const at::Tensor& bias, double eps,
                               CommPtr comm) {
    const StatsGroups groups = one_group(comm, x.size(0));
    const std::vector<Range> rows = {{0, x.size(0)}};
    TreeExchange exchange(2 * x.size(1) + 1, Fold::kMoments, x.device());
    exchange.prepare(groups);
    at::Tensor& stats = exchange.table();
    moments(x, rows, /*alone=*/false, stats);
    exchange.run({"SyncBatchNorm's moments"});
    at::Tensor y = at::empty_like(x);
    normalise(x, rows, stats, weight, bias, eps, Activation::kNone, y);
    context->save_for_backward({x, weight, stats});
    context->saved_data["eps"] = eps;
    context->saved_data["comm"] =
        c10::IValue::make_capsule(c10::make_intrusive<CommHolder>(std::move(comm)));
    context->mark_non_differentiable({stats});
    return {y, stats};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &stats = saved[2];
    const double eps = context->saved_data["eps"].toDouble();
    const auto holder =
        c10::static_intrusive_pointer_cast<CommHolder>(context->saved_data["comm"].toCapsule());
    const int64_t features = x.size(1);

    const StatsGroups groups = one_group(holder->comm, x.size(0));
    const std::vector<Range> rows = {{0, x.size(0)}};
    TreeExchange exchange(2 * features, Fold::kAdd, x.device());
    exchange.prepare(groups);
    at::Tensor& sums = exchange.table();
    at::Tensor dy = gradients[0].contiguous();
    backward_sums(x, x, dy, rows, stats, eps, Activation::kNone, /*alone=*/false, sums);
    const at::Tensor own = sums[0].to(x.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
    exchange.run({"SyncBatchNorm's gradient sums"});
    at::Tensor dx = at::empty_like(x);
    input_gradient(x, dy, rows, stats, sums, weight, eps, dx);
    return {dx, own.narrow(0, features, features), own.narrow(0, 0, features), {}, {}};
  }
};

// (n, C, …) ↔ (rows, C)
at::Tensor to_rows(const at::Tensor& x) {
  return x.movedim(1, -1).reshape({-1, x.size(1)}).contiguous();
}

at::Tensor from_rows(const at::Tensor& y, const at::Tensor& like) {
  return y.view(like.movedim(1, -1).sizes()).movedim(-1, 1);
}

}  // namespace

SyncBatchNormImpl::SyncBatchNormImpl(const torch::nn::BatchNormOptions& settings, CommPtr comm)
    : NormImplBase(settings), comm_(std::move(comm)) {}

void SyncBatchNormImpl::_check_input_dim(const torch::Tensor& x) {
  SYNCBN_CHECK(x.dim() >= 2 && x.size(1) == options.num_features(), "SyncBatchNorm expected (n, ",
               options.num_features(), ") or (n, ", options.num_features(), ", …), found ",
               x.sizes());
}

torch::Tensor SyncBatchNormImpl::forward(const torch::Tensor& x) {
  _check_input_dim(x);
  const at::Tensor gamma = weight.defined() ? weight : at::ones({x.size(1)}, x.options());
  const at::Tensor beta = bias.defined() ? bias : at::zeros({x.size(1)}, x.options());
  const bool by_batch = is_training() || !running_mean.defined();
  if (!by_batch) {
    return at::batch_norm(x, gamma, beta, running_mean, running_var, /*training=*/false,
                          /*momentum=*/0, options.eps(), /*cudnn_enabled=*/false);
  }
  const auto outputs = Normalise::apply(to_rows(x), gamma, beta, options.eps(), comm_);
  const at::Tensor& stats = outputs[1];
  SYNCBN_CHECK(
      !stats.is_cpu() || stats.const_data_ptr<double>()[0] > 1,
      "SyncBatchNorm by batch statistics expected two samples or more over all ranks, found ",
      stats.const_data_ptr<double>()[0]);
  if (is_training() && running_mean.defined()) update_running(stats);
  return from_rows(outputs[0], x);
}

void SyncBatchNormImpl::update_running(const torch::Tensor& stats) {
  const torch::NoGradGuard no_gradient;
  num_batches_tracked.add_(1);
  const double momentum = options.momentum().has_value() ? *options.momentum()
                                                         : 1.0 / num_batches_tracked.item<double>();
  const int64_t features = options.num_features();
  const at::Tensor variance = stats[0].narrow(0, 1 + features, features) / (stats[0][0] - 1);
  running_mean.lerp_(stats[0].narrow(0, 1, features).to(running_mean.scalar_type()), momentum);
  running_var.lerp_(variance.to(running_var.scalar_type()), momentum);
}

void SyncBatchNormImpl::pretty_print(std::ostream& stream) const {
  stream << "syncbn::SyncBatchNorm(" << options.num_features() << ", eps=" << options.eps()
         << ", ranks=" << comm_->size() << ")";
}

}  // namespace syncbn
