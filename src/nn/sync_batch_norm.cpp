#include "nn/sync_batch_norm.hpp"

#include <ATen/ATen.h>

#include <utility>

#include "base/error.hpp"
#include "nn/batch_norm_function.hpp"

namespace syncbn {

SyncBatchNormImpl::SyncBatchNormImpl(const torch::nn::BatchNormOptions& settings, CommPtr comm)
    : NormImplBase(settings), comm_(std::move(comm)) {
  if (!comm_) {
    throw Error(
        "SyncBatchNorm expected a communicator, found null; hand in runtime.world() or a part that "
        "this rank belongs to (split gives null to a rank whose color is negative).");
  }
  if (settings.num_features() < 1) {
    throw Error(
        concat("SyncBatchNorm expected one feature or more, found ", settings.num_features(), "."));
  }
}

void SyncBatchNormImpl::_check_input_dim(const torch::Tensor& x) {
  const int64_t features = options.num_features();
  if (!x.defined()) throw Error("SyncBatchNorm expected an input, found an undefined tensor.");
  if (x.dim() < 2 || x.size(1) != features) {
    throw Error(concat("SyncBatchNorm expected (n, ", features, ") or (n, ", features,
                       ", …), since it has ", features, " features; found ", x.sizes(), "."));
  }
}

void SyncBatchNormImpl::check_dtypes(at::ScalarType input) const {
  const bool low = input == at::kHalf || input == at::kBFloat16;
  if (!low && input != at::kFloat && input != at::kDouble) {
    throw Error(
        concat("SyncBatchNorm takes float32, float64, float16 and bfloat16, found ", input, "."));
  }
  const at::Tensor* first = nullptr;
  for (const at::Tensor* t : {&weight, &bias, &running_mean, &running_var}) {
    if (!t->defined()) continue;
    if (first == nullptr) first = t;
    const at::ScalarType type = t->scalar_type();
    if ((type == input || (low && type == at::kFloat)) && type == first->scalar_type()) continue;
    throw Error(concat("SyncBatchNorm was given an input of ", input,
                       " but its parameters and buffers hold ", type, "; expected all of ", input,
                       low ? " or all of Float" : "", ". Convert the one or the other with to()."));
  }
}

torch::Tensor SyncBatchNormImpl::forward(const torch::Tensor& x) {
  _check_input_dim(x);
  check_dtypes(x.scalar_type());
  input_dims_ = x.dim();
  const bool by_batch = is_training() || !options.track_running_stats() || !running_mean.defined();
  if (!by_batch) {
    return at::batch_norm(x, weight, bias, running_mean, running_var, /*training=*/false,
                          /*momentum=*/0, options.eps(), /*cudnn_enabled=*/false);
  }
  const at::Tensor gamma = weight.defined() ? weight : at::ones({x.size(1)}, x.options());
  const at::Tensor beta = bias.defined() ? bias : at::zeros({x.size(1)}, x.options());
  const Normalised result = normalise_over_ranks(x, gamma, beta, options.eps(), comm_);
  if (result.stats.is_cpu() && result.stats.const_data_ptr<double>()[0] == 1) {
    throw UsageError(
        "SyncBatchNorm expected two samples or more over all ranks, found 1: batch statistics of "
        "one sample say nothing. Give it a larger batch, or use eval().",
        ExitCode::kInvariant);
  }
  if (running_mean.defined()) update_running(result.stats);
  return result.y;
}

// As torch::nn::BatchNorm does it. Without a sample the share of the new statistics is 0.
void SyncBatchNormImpl::update_running(const torch::Tensor& stats) {
  const torch::NoGradGuard no_gradient;
  double momentum = options.momentum().value_or(0);
  if (is_training() && options.track_running_stats() && num_batches_tracked.defined()) {
    num_batches_tracked.add_(1);
    if (!options.momentum()) momentum = 1.0 / num_batches_tracked.item<double>();
  }
  const int64_t features = options.num_features();
  const at::Tensor count = stats[0][0], share = (count > 0).to(at::kDouble) * momentum;
  const auto move = [&](at::Tensor& running, const at::Tensor& found) {
    running.copy_(running.to(at::kDouble).lerp(found, share));
  };
  move(running_mean, stats[0].narrow(0, 1, features));
  move(running_var, stats[0].narrow(0, 1 + features, features) / (count - 1));
}

void SyncBatchNormImpl::pretty_print(std::ostream& stream) const {
  stream << "syncbn::SyncBatchNorm(" << options.num_features() << ", eps=" << options.eps()
         << ", momentum=";
  if (options.momentum()) {
    stream << *options.momentum();
  } else {
    stream << "None";
  }
  stream << ", affine=" << (options.affine() ? "true" : "false")
         << ", track_running_stats=" << (options.track_running_stats() ? "true" : "false")
         << ", ranks=" << comm_->size() << ")";
}

}  // namespace syncbn
