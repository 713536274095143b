#include "study/probes.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <map>

#include "nn/activation.hpp"
#include "study/population.hpp"
#include "study/unit_statistics.hpp"

namespace syncbn {
namespace {

constexpr double kMedian = 0.5, kTail = 0.99;

// The gradient of each parameter under its name, in the trainer's flat tensor.
std::map<std::string, at::Tensor> gradients_of(Trainer& trainer) {
  std::map<std::string, at::Tensor> gradients;
  int64_t offset = 0;
  const auto& layers = trainer.network().layers();
  for (size_t i = 0; i < layers.size(); ++i) {
    for (const auto& spec : layers[i]->parameters()) {
      gradients[std::to_string(i) + "." + spec.name] =
          trainer.replica().gradients().narrow(0, offset, numel(spec));
      offset += numel(spec);
    }
  }
  return gradients;
}

// The trial's statistics groups in a batch of B.
std::vector<Range> groups_of_batch(const Trainer& trainer) {
  const int64_t batch = trainer.batch();
  const int64_t size = group_size(trainer.options().norm.batch, batch);
  std::vector<Range> groups;
  if (size == kLocal) {
    const Sharding& sharding = trainer.sharding();
    for (int64_t v = 0; v < sharding.shards; ++v) {
      groups.push_back({sharding.first_row(batch, v), sharding.first_row(batch, v + 1)});
    }
    return groups;
  }
  for (int64_t first = 0; first < batch; first += size) {
    groups.push_back({first, std::min(first + size, batch)});
  }
  return groups;
}

// Of the population cut into groups of m, in a random order: in the stored one neighbours may be
// alike.
StatisticsNoise noise_of_groups(const at::Tensor& dealt, const UnitMoments& moments, int64_t m) {
  NoiseMeter meter(moments);
  for (int64_t first = 0; m > 0 && first + m <= dealt.size(0); first += m) {
    meter.add(dealt.narrow(0, first, m));
  }
  return meter.noise();
}

void fill_statistics(Trainer& trainer, size_t layer, const Received& received,
                     const UnitMoments& moments, LayerRow& row) {
  const int64_t m = normalization_batch(trainer);
  const auto order = random_for(trainer, Draw::kGroups).permutation(moments.samples);
  const at::Tensor dealt = received.values.index_select(0, at::tensor(order));
  const StatisticsNoise noise = noise_of_groups(dealt, moments, m);
  const StatisticsNoise theory = noise_theory(moments, m);
  row.m = static_cast<double>(m);
  row.mean_noise = noise.mean;
  row.mean_noise_theory = theory.mean;
  row.variance_noise = noise.variance;
  row.variance_noise_theory = theory.variance;
  row.kurtosis = mean_alive(moments.kurtosis, moments.alive);
  const StatisticsNoise of_shards =
      noise_of_groups(dealt, moments, trainer.batch() / trainer.sharding().shards);
  row.shard_noise = of_shards.mean;
  row.shard_variance_noise = of_shards.variance;
  const at::Tensor mean = state_entry(trainer, layer, "running_mean");
  const at::Tensor variance = state_entry(trainer, layer, "running_var");
  const at::Tensor deviation = moments.variance.sqrt();
  row.running_mean_gap = mean_alive((mean - moments.mean).abs() / deviation, moments.alive);
  row.running_variance_gap = mean_alive((variance / moments.variance).log(), moments.alive);
  const NormOptions& norm = trainer.options().norm;
  const auto steps = static_cast<double>(trainer.step());
  row.initial_weight = norm.cumulative ? (steps > 0 ? 0 : 1) : std::pow(1 - norm.momentum, steps);
  if (received.largest.defined()) {
    row.dead = received.largest.eq(0).to(at::kDouble).mean().item<double>();
  }
}

// Watches a backward pass, and then fills the rows of the norm layers.
class GradientWatch {
 public:
  GradientWatch(Trainer& trainer, const std::map<size_t, UnitMoments>& moments)
      : trainer_(trainer),
        moments_(moments),
        activation_(activation_named(trainer.options().model.activation)),
        groups_(groups_of_batch(trainer)) {}

  void operator()(size_t layer, bool done) {
    if (moments_.count(layer) == 0) return;
    const Network& network = trainer_.network();
    if (!done) {
      dy_ = network.gradient(layer + 1).clone();
      if (is_activation(network, layer + 1)) {  // the norm layer applies it, and its derivative
        activation_gradient(activation_, network.value(layer + 1), dy_, dy_);
      }
    } else {
      measure(layer, network.gradient(layer));
    }
  }

  void fill(size_t layer, LayerRow& row) const {
    const Measured& measured = measured_.at(layer);
    row.gain_median = quantile_of(measured.gain, kMedian);
    row.gain_p99 = quantile_of(measured.gain, kTail);
    row.group_gradient_median = quantile_of(measured.norms, kMedian);
    row.group_gradient_p99 = quantile_of(measured.norms, kTail);
  }

 private:
  struct Measured {
    at::Tensor gain, norms;  // (G, C), (G)
  };

  void measure(size_t layer, const at::Tensor& own_dx) {
    const Range rows = trainer_.sharding().rows(trainer_.batch());
    const at::Tensor dy = rows_of_all(trainer_, dy_, rows, trainer_.batch());
    const at::Tensor dx = rows_of_all(trainer_, own_dx, rows, trainer_.batch());
    measured_[layer].gain = backward_gain(dy, dx, groups_, state_entry(trainer_, layer, "weight"),
                                          moments_.at(layer).variance);
    std::vector<at::Tensor> norms;
    norms.reserve(groups_.size());
    for (const Range group : groups_) {
      norms.push_back(at::full({}, std::sqrt(square_norm(dx.narrow(0, group.begin, group.size()))),
                               at::kDouble));
    }
    measured_[layer].norms = at::stack(norms);
  }

  Trainer& trainer_;
  const std::map<size_t, UnitMoments>& moments_;
  Activation activation_;
  std::vector<Range> groups_;
  at::Tensor dy_;  // of this rank's rows, at the output of the layer under way
  std::map<size_t, Measured> measured_;
};

}  // namespace

int64_t normalization_batch(const Trainer& trainer) {
  if (trainer.options().norm.kind != "batch") return 0;
  const int64_t size = group_size(trainer.options().norm.batch, trainer.batch());
  return size == kLocal ? trainer.batch() / trainer.sharding().shards : size;
}

std::vector<LayerRow> probe_layers(Trainer& trainer, int64_t population) {
  const std::map<size_t, Received> received = norm_inputs(trainer, population);
  std::map<size_t, UnitMoments> moments;
  for (const auto& [layer, of_layer] : received) moments[layer] = unit_moments(of_layer.values);
  GradientWatch watch(trainer, moments);
  const auto samples = random_for(trainer, Draw::kBatch).permutation(trainer.data().train.size());
  trainer.look_backward(samples.data(), trainer.batch(),
                        [&](size_t layer, bool done) { watch(layer, done); });

  const std::map<std::string, at::Tensor> gradients = gradients_of(trainer);
  std::vector<LayerRow> rows;
  const auto& layers = trainer.network().layers();
  for (size_t i = 0; i < layers.size(); ++i) {
    LayerRow row;
    row.step = trainer.step();
    row.layer = static_cast<int64_t>(i);
    row.name = std::to_string(i);
    row.type = layers[i]->type();
    if (row.type != "Linear" && row.type != "BatchNorm1d") continue;
    const double weight2 = square_norm(state_entry(trainer, i, "weight"));
    row.weight_norm = std::sqrt(weight2);
    row.gradient_norm = std::sqrt(square_norm(gradients.at(row.name + ".weight")));
    if (row.type == "Linear") {
      row.effective_lr = trainer.learning_rate(std::max<int64_t>(0, trainer.step() - 1)) / weight2;
    } else {
      fill_statistics(trainer, i, received.at(i), moments.at(i), row);
      watch.fill(i, row);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<UnitRow> probe_units(Trainer& trainer, int64_t units, int64_t population) {
  const at::Tensor inputs = last_activation_inputs(trainer, units, population);
  std::vector<UnitRow> rows;
  rows.reserve(static_cast<size_t>(inputs.size(1)));
  for (int64_t unit = 0; unit < inputs.size(1); ++unit) {
    const at::Tensor values = inputs.select(1, unit);
    rows.push_back({trainer.step(), unit, quantile_of(values, 0.15), quantile_of(values, 0.5),
                    quantile_of(values, 0.85)});
  }
  return rows;
}

}  // namespace syncbn
