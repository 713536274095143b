#include "study/population.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "nn/one_thread.hpp"

namespace syncbn {
namespace {

// Calls f(first, count, this rank's rows among them) for each batch of the population, which the
// network then holds.
void for_each_batch(Trainer& trainer, int64_t population,
                    const std::function<void(int64_t first, int64_t count, Range rows)>& f) {
  std::vector<int64_t> samples(static_cast<size_t>(population));
  std::iota(samples.begin(), samples.end(), int64_t{0});
  for (int64_t first = 0; first < population; first += trainer.evaluation_batch()) {
    const int64_t count = std::min(trainer.evaluation_batch(), population - first);
    f(first, count, trainer.look_forward(samples.data() + first, count));
  }
}

int64_t samples_of(const Trainer& trainer, int64_t population) {
  return std::min(population, trainer.data().train.size());
}

// What layer i made of this rank's rows, without the activation that it may have applied: its first
// units, computed again row by row, so that the bits do not depend on how many rows there are.
at::Tensor output_of(Trainer& trainer, size_t i, int64_t units) {
  const std::string type = trainer.network().layers()[i]->type();
  const at::Tensor x = trainer.network().value(i).cpu().to(at::kDouble);
  const at::Tensor weight = state_entry(trainer, i, "weight").narrow(0, 0, units);
  const at::Tensor bias = state_entry(trainer, i, "bias").narrow(0, 0, units);
  const double eps = trainer.options().norm.eps;
  if (type == "Linear") {
    std::vector<at::Tensor> columns;
    columns.reserve(static_cast<size_t>(units));
    for (int64_t c = 0; c < units; ++c) columns.push_back((x * weight[c]).sum(1));
    return at::stack(columns, 1) + bias;
  }
  at::Tensor mean, variance;
  if (type == "BatchNorm1d") {
    mean = state_entry(trainer, i, "running_mean").narrow(0, 0, units);
    variance = state_entry(trainer, i, "running_var").narrow(0, 0, units);
  } else {
    SYNCBN_CHECK(type == "LayerNorm", "an activation after ", type);
    mean = x.mean(1, /*keepdim=*/true);
    variance = (x - mean).square_().mean(1, /*keepdim=*/true);
  }
  return (x.narrow(1, 0, units) - mean) * (variance + eps).rsqrt() * weight + bias;
}

}  // namespace

RandomStream random_for(const Trainer& trainer, Draw what, int64_t index) {
  constexpr int kIndexBits = 56;
  return {seed_of(trainer.options(), Stream::kProbe), Stream::kProbe,
          static_cast<uint64_t>(what) << kIndexBits | static_cast<uint64_t>(index)};
}

bool is_activation(const Network& network, size_t i) {
  if (i >= network.layers().size()) return false;
  const std::string type = network.layers()[i]->type();
  return type == "ReLU" || type == "Sigmoid" || type == "Tanh";
}

// Each rank's rows are added to zeros, which changes no bit of them.
at::Tensor rows_of_all(Trainer& trainer, const at::Tensor& own, Range rows, int64_t total) {
  const at::Device device = trainer.network().value(0).device();
  at::Tensor all = at::zeros({total, own.size(1)}, own.options().device(device));
  all.narrow(0, rows.begin, rows.size()).copy_(own);
  trainer.comm().all_reduce(all, ReduceOp::kSum, {"values of a layer"});
  trainer.comm().wait(device);
  return all.cpu().to(at::kDouble);
}

at::Tensor state_entry(Trainer& trainer, size_t layer, const std::string& name) {
  const std::string key = concat(layer, ".", name);
  for (const auto& [found, value] : trainer.replica().state_dict()) {
    if (found == key) return value.cpu().to(at::kDouble);
  }
  throw Error(concat("the network has no ", key), ExitCode::kInvariant);
}

std::map<size_t, Received> norm_inputs(Trainer& trainer, int64_t population) {
  const Network& network = trainer.network();
  const int64_t n = samples_of(trainer, population);
  std::map<size_t, Received> received;
  for (size_t i = 0; i < network.layers().size(); ++i) {
    if (network.layers()[i]->type() != "BatchNorm1d") continue;
    const int64_t features = network.layers()[i]->in_features();
    received[i].values = at::empty({n, features}, at::kDouble);
    const bool has_activation = is_activation(network, i + 1) || is_activation(network, i - 1);
    if (has_activation) received[i].largest = at::zeros({features}, at::kDouble);
  }
  if (received.empty()) return received;
  for_each_batch(trainer, n, [&](int64_t first, int64_t count, Range rows) {
    for (auto& [layer, r] : received) {
      r.values.narrow(0, first, count)
          .copy_(rows_of_all(trainer, network.value(layer), rows, count));
      if (!r.largest.defined()) continue;
      const at::Tensor own = network.value(is_activation(network, layer + 1) ? layer + 2 : layer);
      if (rows.size() > 0) r.largest = at::maximum(r.largest, own.abs().amax(0).cpu());
    }
  });
  for (auto& [layer, r] : received) {
    if (!r.largest.defined()) continue;
    at::Tensor all = r.largest.to(network.value(0).options());
    trainer.comm().all_reduce(all, ReduceOp::kMax, {"largest activations"});
    trainer.comm().wait(all.device());
    r.largest = all.cpu();
  }
  return received;
}

at::Tensor last_activation_inputs(Trainer& trainer, int64_t units, int64_t population) {
  const Network& network = trainer.network();
  const int64_t n = samples_of(trainer, population);
  size_t last = network.layers().size();
  while (last > 0 && !is_activation(network, last)) --last;
  const int64_t width = last == 0 ? 0 : std::min(units, network.layers()[last]->in_features());
  at::Tensor inputs = at::empty({n, width}, at::kDouble);
  if (width == 0) return inputs;
  for_each_batch(trainer, n, [&](int64_t first, int64_t count, Range rows) {
    const OneThread one_thread;
    inputs.narrow(0, first, count)
        .copy_(rows_of_all(trainer, output_of(trainer, last - 1, width), rows, count));
  });
  return inputs;
}

}  // namespace syncbn
