#include "nn/batch_norm_function.hpp"

#include <ATen/ATen.h>

#include <vector>

#include "nn/batch_norm_derivative.hpp"
#include "nn/norm_kernels.hpp"
#include "nn/saved_communicator.hpp"
#include "nn/tree_exchange.hpp"

namespace syncbn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

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

// What the passes compute with; they widen each element to float64 themselves.
at::ScalarType pass_dtype(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// (n, C, …) → (rows, C), contiguous. Shares x's memory if that is its layout and dtype.
at::Tensor to_rows(const at::Tensor& x, at::ScalarType dtype) {
  const at::Tensor last = x.movedim(1, -1);
  return last.to(dtype, /*non_blocking=*/false, /*copy=*/false, at::MemoryFormat::Contiguous)
      .contiguous()
      .view({x.numel() / x.size(1), x.size(1)});
}

// A tensor like x, in the layout that at::batch_norm gives: `pass` writes its rows (rows, C).
template <class Pass>
at::Tensor from_rows(const at::Tensor& x, at::ScalarType dtype, Pass&& pass) {
  at::Tensor y = at::empty_like(x, x.suggest_memory_format());
  const at::Tensor last = y.movedim(1, -1);
  const bool direct = last.is_contiguous() && last.scalar_type() == dtype;
  const at::Tensor target = direct ? last : at::empty(last.sizes(), last.options().dtype(dtype));
  at::Tensor rows = target.view({x.numel() / x.size(1), x.size(1)});
  pass(rows);
  if (!direct) last.copy_(target);
  return y;
}

struct Normalise : public torch::autograd::Function<Normalise> {
  // → y, and the group's stats (1, 2C+1), which carry no gradient.
  static variable_list forward(AutogradContext* context, const at::Tensor& x,
                               const at::Tensor& gamma, const at::Tensor& beta, double eps,
                               const CommPtr& comm) {
    const at::ScalarType dtype = pass_dtype(x);
    const at::Tensor x_rows = to_rows(x, dtype);
    const StatsGroups groups = one_group(comm, x_rows.size(0));
    const std::vector<Range> rows = {{0, x_rows.size(0)}};
    TreeExchange exchange(2 * x.size(1) + 1, Fold::kMoments, x.device());
    exchange.prepare(groups);
    at::Tensor& stats = exchange.table();
    moments(x_rows, rows, /*alone=*/false, stats);
    exchange.run({"SyncBatchNorm's moments"});
    at::Tensor y = from_rows(x, dtype, [&](at::Tensor& y_rows) {
      normalise(x_rows, rows, stats, gamma.to(dtype).contiguous(), beta.to(dtype).contiguous(), eps,
                Activation::kNone, y_rows);
    });
    context->save_for_backward({x, gamma, stats});
    context->saved_data["eps"] = eps;
    save_communicator(*context, comm);
    context->mark_non_differentiable({stats});
    return {y, stats};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &gamma = saved[1], &stats = saved[2];
    const double eps = context->saved_data["eps"].toDouble();
    const CommPtr comm = saved_communicator(*context);
    const BatchNormGradients all =
        at::GradMode::is_enabled()  // create_graph: these gradients are themselves differentiated
            ? differentiable_gradients(x, gamma, stats, gradients[0], eps, comm)
            : plain_gradients(x, gamma, stats, gradients[0], eps, comm);
    return {all.x, all.gamma, all.beta, {}, {}};
  }

  static BatchNormGradients plain_gradients(const at::Tensor& x, const at::Tensor& gamma,
                                            const at::Tensor& stats, const at::Tensor& dy,
                                            double eps, const CommPtr& comm) {
    const int64_t features = x.size(1);
    const at::ScalarType dtype = pass_dtype(x);
    const at::Tensor x_rows = to_rows(x, dtype);
    at::Tensor dy_rows = to_rows(dy, dtype);  // only read, since there is no activation
    const StatsGroups groups = one_group(comm, x_rows.size(0));
    const std::vector<Range> rows = {{0, x_rows.size(0)}};
    TreeExchange exchange(2 * features, Fold::kAdd, x.device());
    exchange.prepare(groups);
    at::Tensor& sums = exchange.table();
    if (x_rows.size(0) > 0) {  // else 0, also where no rank has a row and 1/std is NaN
      backward_sums(x_rows, x_rows, dy_rows, rows, stats, eps, Activation::kNone, /*alone=*/false,
                    sums);
    }
    const at::Tensor own = sums[0].to(gamma.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
    exchange.run({"SyncBatchNorm's gradient sums"});
    const at::Tensor dx = from_rows(x, dtype, [&](at::Tensor& dx_rows) {
      input_gradient(x_rows, dy_rows, rows, stats, sums, gamma.to(dtype).contiguous(), eps,
                     dx_rows);
    });
    return {dx, own.narrow(0, features, features), own.narrow(0, 0, features)};
  }
};

}  // namespace

Normalised normalise_over_ranks(const at::Tensor& x, const at::Tensor& gamma,
                                const at::Tensor& beta, double eps, const CommPtr& comm) {
  const variable_list outputs = Normalise::apply(x, gamma, beta, eps, comm);
  return {outputs[0], outputs[1]};
}

}  // namespace syncbn
