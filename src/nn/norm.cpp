#include "nn/norm.hpp"

#include <ATen/ATen.h>

#include <chrono>
#include <tuple>

#include "nn/norm_kernels.hpp"

namespace syncbn {
namespace {

// Adds the seconds of one exchange to the step's norm_comm.
template <class F>
void timed_exchange(const StepContext& context, F&& exchange) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  exchange();
  if (context.times != nullptr) {
    context.times->norm_comm += std::chrono::duration<double>(Clock::now() - start).count();
  }
}

}  // namespace

BatchNorm::BatchNorm(int64_t features, const NormOptions& options, bool relu, at::ScalarType dtype,
                     at::Device device)
    : features_(features), options_(options), relu_(relu), exchange_(features, device) {
  const auto values = at::TensorOptions().dtype(dtype).device(device);
  running_ = at::cat({at::zeros({features}, values), at::ones({features}, values)});
  running_mean_ = running_.narrow(0, 0, features);
  running_var_ = running_.narrow(0, features, features);
  batches_ = at::zeros({}, at::kLong);
  running_stats_ = at::ones({1, 2 * features + 1}, values.dtype(at::kDouble));
  collected_ = at::zeros_like(running_stats_);
}

void BatchNorm::forward(const at::Tensor& x, at::Tensor& y, const StepContext& context) {
  if (context.statistics == Statistics::kRunning) {
    running_stats_.narrow(1, 1, 2 * features_).copy_(running_.unsqueeze(0));
    normalise(x, {{0, x.size(0)}}, running_stats_, weight_, bias_, options_.eps, relu_, y);
    return;
  }
  SYNCBN_CHECK(context.groups != nullptr, "batch statistics need statistics groups");
  exchange_.prepare(*context.groups);
  moments(x, exchange_.rows(), exchange_.stats());
  if (context.collect) collect();
  timed_exchange(context, [&] { exchange_.forward(); });
  normalise(x, exchange_.rows(), exchange_.stats(), weight_, bias_, options_.eps, relu_, y);
  if (context.training) contribute(context);
}

void BatchNorm::backward(const at::Tensor& x, const at::Tensor& y, at::Tensor& dy, at::Tensor& dx,
                         const StepContext& context) {
  at::Tensor& sums = exchange_.sums();
  backward_sums(x, y, dy, exchange_.rows(), exchange_.stats(), options_.eps, relu_, sums);
  // This rank's own sums: the gradient all-reduce adds the other ranks'.
  const std::vector<double> once(exchange_.rows().size(), 1.0);
  weighted_sum(sums, 0, once, bias_gradient_);
  weighted_sum(sums, features_, once, weight_gradient_);
  timed_exchange(context, [&] { exchange_.backward(); });
  input_gradient(x, dy, exchange_.rows(), exchange_.stats(), sums, weight_, options_.eps, dx);
}

// reduced ← Σ over this rank's pieces of rows/batch · (mean, variance) of the piece's group.
void BatchNorm::contribute(const StepContext& context) {
  mean_weights_.clear();
  variance_weights_.clear();
  for (const auto& piece : context.groups->pieces) {
    const auto samples = static_cast<double>(piece.group_samples);
    const double weight =
        static_cast<double>(piece.rows.size()) / static_cast<double>(context.batch);
    mean_weights_.push_back(weight);
    variance_weights_.push_back(weight / (samples - bessel()));
  }
  weighted_sum(exchange_.stats(), 1, mean_weights_, reduced_mean_);
  weighted_sum(exchange_.stats(), 1 + features_, variance_weights_, reduced_var_);
}

void BatchNorm::after_reduce() {
  auto& batches = *batches_.mutable_data_ptr<int64_t>();
  ++batches;
  running_.lerp_(reduced_,
                 options_.cumulative ? 1.0 / static_cast<double>(batches) : options_.momentum);
}

void BatchNorm::collect() {
  // Whole groups or parts of them: pooling needs this rank's own rows only.
  const at::Tensor parts = at::cat({collected_, exchange_.stats()}).unsqueeze(1);  // (1+P, 1, 2C+1)
  fold_moments(parts, collected_);
}

at::Tensor BatchNorm::take_collected() {
  at::Tensor taken = collected_.clone();
  collected_.zero_();
  return taken;
}

void BatchNorm::set_running(const at::Tensor& moments) {
  const auto count = moments[0][0].item<double>();
  SYNCBN_CHECK(count > 1, "statistics of ", count, " samples");
  running_mean_.copy_(moments[0].narrow(0, 1, features_));
  running_var_.copy_(moments[0].narrow(0, 1 + features_, features_) / (count - bessel()));
}

std::vector<ParameterSpec> BatchNorm::parameters() const {
  return {{"weight", {features_}, at::ones({features_}, at::kDouble)},
          {"bias", {features_}, at::zeros({features_}, at::kDouble)}};
}

std::vector<BufferSpec> BatchNorm::buffers() const {
  return {{"running_mean", running_mean_},
          {"running_var", running_var_},
          {"num_batches_tracked", batches_}};
}

void BatchNorm::bind(const Binding& binding) {
  weight_ = binding.parameters[0];
  bias_ = binding.parameters[1];
  weight_gradient_ = binding.gradients[0];
  bias_gradient_ = binding.gradients[1];
  reduced_ = binding.reduced;
  reduced_mean_ = reduced_.narrow(0, 0, features_);
  reduced_var_ = reduced_.narrow(0, features_, features_);
}

void LayerNorm::forward(const at::Tensor& x, at::Tensor& y, const StepContext&) {
  at::Tensor normalised;
  std::tie(normalised, mean_, inv_std_) =
      at::native_layer_norm(x, {features_}, weight_, bias_, eps_);
  y.copy_(normalised);
}

void LayerNorm::backward(const at::Tensor& x, const at::Tensor&, at::Tensor& dy, at::Tensor& dx,
                         const StepContext&) {
  const auto gradients = at::native_layer_norm_backward(dy, x, {features_}, mean_, inv_std_,
                                                        weight_, bias_, {true, true, true});
  dx.copy_(std::get<0>(gradients));
  weight_gradient_.copy_(std::get<1>(gradients));
  bias_gradient_.copy_(std::get<2>(gradients));
}

std::vector<ParameterSpec> LayerNorm::parameters() const {
  return {{"weight", {features_}, at::ones({features_}, at::kDouble)},
          {"bias", {features_}, at::zeros({features_}, at::kDouble)}};
}

void LayerNorm::bind(const Binding& binding) {
  weight_ = binding.parameters[0];
  bias_ = binding.parameters[1];
  weight_gradient_ = binding.gradients[0];
  bias_gradient_ = binding.gradients[1];
}

std::unique_ptr<Layer> make_norm(const NormOptions& options, int64_t features, at::ScalarType dtype,
                                 at::Device device, bool& fuse_relu) {
  const bool relu_follows = fuse_relu;
  fuse_relu = false;
  if (options.kind == "none") return nullptr;
  if (options.kind == "layer") return std::make_unique<LayerNorm>(features, options.eps);
  SYNCBN_CHECK(options.kind == "batch", "unknown norm.kind ", options.kind);
  fuse_relu = relu_follows;
  return std::make_unique<BatchNorm>(features, options, relu_follows, dtype, device);
}

}  // namespace syncbn
