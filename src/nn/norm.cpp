#include "nn/norm.hpp"

#include <ATen/ATen.h>

#include <utility>

#include "base/clock.hpp"
#include "nn/layer_norm.hpp"
#include "nn/norm_kernels.hpp"
#include "nn/shard_gradients.hpp"

namespace syncbn {
namespace {

// Runs the exchange and adds what it takes to the step's costs.
void timed(const StepContext& context, TreeExchange& exchange, const Purpose& purpose) {
  const auto start = Clock::now();
  exchange.run(purpose);
  if (context.times != nullptr) {
    context.times->norm_comm += seconds_since(start);
    context.times->norm_traffic += exchange.traffic();
  }
}

}  // namespace

BatchNorm::BatchNorm(int64_t features, NormOptions options, Activation activation,
                     at::ScalarType dtype, at::Device device)
    : features_(features),
      options_(std::move(options)),
      activation_(activation),
      stats_(2 * features + 1, Fold::kMoments, device),
      sums_(2 * features, Fold::kAdd, device) {
  const auto values = at::TensorOptions().dtype(dtype).device(device);
  running_ = at::cat({at::zeros({features}, values), at::ones({features}, values)});
  running_mean_ = running_.narrow(0, 0, features);
  running_var_ = running_.narrow(0, features, features);
  batches_ = at::zeros({}, at::kLong);
  running_stats_ = at::ones({1, 2 * features + 1}, values.dtype(at::kDouble));
}

void BatchNorm::forward(const at::Tensor& x, at::Tensor& y, const StepContext& context) {
  if (context.statistics == Statistics::kRunning) {
    running_stats_.narrow(1, 1, 2 * features_).copy_(running_.unsqueeze(0));
    normalise(x, {{0, x.size(0)}}, running_stats_, weight_, bias_, options_.eps, activation_, y);
    return;
  }
  SYNCBN_CHECK(context.groups != nullptr, "batch statistics need statistics groups");
  prepare(context);
  at::Tensor& stats = stats_.table();
  moments(x, rows_, context.groups->canonical, stats);
  if (context.collect) collect(*context.groups);
  timed(context, stats_, {"batch norm's moments", layer_});
  normalise(x, rows_, stats, weight_, bias_, options_.eps, activation_, y);
  if (!context.training) return;
  sum_pieces(stats, 1, mean_weights_, mean_places_);
  sum_pieces(stats, 1 + features_, variance_weights_, variance_places_);
}

void BatchNorm::backward(const at::Tensor& x, const at::Tensor& y, at::Tensor& dy, at::Tensor& dx,
                         const StepContext& context) {
  at::Tensor &stats = stats_.table(), &sums = sums_.table();
  backward_sums(x, y, dy, rows_, stats, options_.eps, activation_, context.groups->canonical, sums);
  // Each piece's own sums: the gradient's sum over shards adds up the others.
  sum_pieces(sums, 0, once_, bias_gradients_);
  sum_pieces(sums, features_, once_, weight_gradients_);
  timed(context, sums_, {"batch norm's gradient sums", layer_});
  input_gradient(x, dy, rows_, stats, sums, weight_, options_.eps, dx);
}

// What follows from the groups alone. The running statistics take from each piece rows/batch of its
// group's mean and variance.
void BatchNorm::prepare(const StepContext& context) {
  const StatsGroups& groups = *context.groups;
  if (!stats_.prepare(groups)) return;
  sums_.prepare(groups);
  rows_.clear();
  mean_weights_.clear();
  variance_weights_.clear();
  runs_.assign(context.shards->size(), Range{});
  for (const auto& piece : groups.pieces) {
    const double weight =
        static_cast<double>(piece.rows.size()) / static_cast<double>(context.batch);
    rows_.push_back(piece.rows);
    mean_weights_.push_back(weight);
    variance_weights_.push_back(weight / (static_cast<double>(piece.group_samples) - bessel()));
    Range& run = runs_[static_cast<size_t>(piece.shard)];
    const auto end = static_cast<int64_t>(rows_.size());
    run = {run.size() == 0 ? end - 1 : run.begin, end};
  }
  once_.assign(rows_.size(), 1.0);
}

// places[k] ← Σ over the pieces of node k of weights[p] · table[p][first … first + C).
void BatchNorm::sum_pieces(const at::Tensor& table, int64_t first,
                           const std::vector<double>& weights, std::vector<at::Tensor>& places) {
  weighted_sums(table, first, weights, runs_, parts_);
  sum_shards(node_sums_, parts_, places);
}

void BatchNorm::after_reduce() {
  auto& batches = *batches_.mutable_data_ptr<int64_t>();
  ++batches;
  running_.lerp_(reduced_,
                 options_.cumulative ? 1.0 / static_cast<double>(batches) : options_.momentum);
}

void BatchNorm::collect(const StatsGroups& groups) {
  for (size_t p = 0; p < groups.pieces.size(); ++p) {
    merge_moments(stats_.table(), static_cast<int64_t>(p), collected_, groups.pieces[p].shard);
  }
}

at::Tensor BatchNorm::take_collected() {
  at::Tensor taken = collected_.clone();
  collected_.zero_();
  return taken;
}

void BatchNorm::set_running(const at::Tensor& moments) {
  const auto count = moments[0].item<double>();
  SYNCBN_CHECK(count > 1, "statistics of ", count, " samples");
  running_mean_.copy_(moments.narrow(0, 1, features_));
  running_var_.copy_(moments.narrow(0, 1 + features_, features_) / (count - bessel()));
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
  layer_ = binding.layer;
  weight_ = binding.parameters[0];
  bias_ = binding.parameters[1];
  weight_gradients_ = binding.gradients[0];
  bias_gradients_ = binding.gradients[1];
  reduced_ = binding.reduced[0];
  for (const at::Tensor& place : binding.reduced) {
    mean_places_.push_back(place.narrow(0, 0, features_));
    variance_places_.push_back(place.narrow(0, features_, features_));
  }
  node_sums_ = binding.sharding.node_sums();
  const int64_t shards = binding.sharding.mine().size();
  parts_ = at::zeros({shards, features_}, weight_.options());
  collected_ = at::zeros({shards, 2 * features_ + 1}, running_stats_.options());
}

Activation fusible(const NormOptions& options, Activation follows) {
  return options.kind == "batch" ? follows : Activation::kNone;
}

std::unique_ptr<Layer> make_norm(const NormOptions& options, int64_t features,
                                 Activation activation, at::ScalarType dtype, at::Device device) {
  if (options.kind == "none") return nullptr;
  if (options.kind == "layer") return std::make_unique<LayerNorm>(features, options.eps);
  SYNCBN_CHECK(options.kind == "batch", "unknown norm.kind ", options.kind);
  return std::make_unique<BatchNorm>(features, options, activation, dtype, device);
}

}  // namespace syncbn
