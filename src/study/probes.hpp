// What is measured of a network at rest: the noise of its batch statistics, the state of its
// layers, the gradient's noise scale, the inputs of single units.
//
// Each probe is collective over the trainer's communicator and returns the same rows on every rank,
// with canonical sums the same bits on any number of ranks. It leaves the trainer as it was:
// weights, running statistics, optimizer, step, epoch; only replica().gradients() and loss() are
// then the probe's. The population is the first n training samples in storage order (all, if there
// are fewer), with running statistics below each layer and without dropout. Every rank holds the
// population's values at the layers probed, so its size is a matter of memory. Fields that are NaN
// were not measured or mean nothing for the layer. Columns are those of the study's files.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "train/trainer.hpp"

namespace syncbn {

constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

/// One Linear or BatchNorm1d of the network.
struct LayerRow {
  int64_t step = 0;
  int64_t layer = 0;       ///< index in the network
  std::string name, type;  ///< "0"; "Linear"
  double weight_norm = kNotMeasured, gradient_norm = kNotMeasured;
  double effective_lr = kNotMeasured;
  double m = kNotMeasured;
  double mean_noise = kNotMeasured, mean_noise_theory = kNotMeasured;
  double variance_noise = kNotMeasured, variance_noise_theory = kNotMeasured;
  double kurtosis = kNotMeasured;
  double shard_noise = kNotMeasured, shard_variance_noise = kNotMeasured;
  double running_mean_gap = kNotMeasured, running_variance_gap = kNotMeasured;
  double initial_weight = kNotMeasured;
  double dead = kNotMeasured;
  double gain_median = kNotMeasured, gain_p99 = kNotMeasured;
  double group_gradient_median = kNotMeasured, group_gradient_p99 = kNotMeasured;
};

/// Calls f("column", value) for each column, in the order of the file.
template <class F>
void for_each_column(const LayerRow& row, F&& f) {
  f("step", row.step);
  f("layer", row.layer);
  f("name", row.name);
  f("type", row.type);
  f("weight_norm", row.weight_norm);
  f("gradient_norm", row.gradient_norm);
  f("effective_lr", row.effective_lr);
  f("m", row.m);
  f("mean_noise", row.mean_noise);
  f("mean_noise_theory", row.mean_noise_theory);
  f("variance_noise", row.variance_noise);
  f("variance_noise_theory", row.variance_noise_theory);
  f("kurtosis", row.kurtosis);
  f("shard_noise", row.shard_noise);
  f("shard_variance_noise", row.shard_variance_noise);
  f("running_mean_gap", row.running_mean_gap);
  f("running_variance_gap", row.running_variance_gap);
  f("initial_weight", row.initial_weight);
  f("dead", row.dead);
  f("gain_median", row.gain_median);
  f("gain_p99", row.gain_p99);
  f("group_gradient_median", row.group_gradient_median);
  f("group_gradient_p99", row.group_gradient_p99);
}

/// Of each Linear and BatchNorm1d. Gradients are of one batch of B training samples in the trial's
/// groups of M; weight_norm of a BatchNorm1d is γ's. effective_lr: of the last step's rate. Noise:
/// over the population cut into groups of M (or of one shard: what ranks of B/V samples would see
/// each, whatever R is), what does not fill a group left out. initial_weight: of the buffers' first
/// values in the running statistics, (1 − momentum)^step.
/// Batch and groups are drawn by (run.seed, Stream::kProbe), at every step the same. gain: as
/// backward_gain in unit_statistics.hpp; dead: NaN for the output's norm.
std::vector<LayerRow> probe_layers(Trainer& trainer, int64_t population);

struct NoiseLawRow {
  int64_t layer = 0, m = 0, draws = 0;
  double mean_noise = kNotMeasured, mean_noise_theory = kNotMeasured;
  double variance_noise = kNotMeasured, variance_noise_theory = kNotMeasured;
};

template <class F>
void for_each_column(const NoiseLawRow& row, F&& f) {
  f("layer", row.layer);
  f("m", row.m);
  f("draws", row.draws);
  f("mean_noise", row.mean_noise);
  f("mean_noise_theory", row.mean_noise_theory);
  f("variance_noise", row.variance_noise);
  f("variance_noise_theory", row.variance_noise_theory);
}

/// Of each BatchNorm1d and each M of `ms`: the noise of the statistics of groups, each drawn from
/// the population without replacement by (run.seed, Stream::kProbe). `draws` groups for M ≥ 64;
/// below, where one group's statistics have heavy tails, as many as hold as many samples (draws in
/// the row). NaN for an M above the population.
std::vector<NoiseLawRow> probe_noise_law(Trainer& trainer, int64_t population,
                                         const std::vector<int64_t>& ms, int64_t draws = 200);

struct NoiseScaleRow {
  int64_t step = 0, small_batch = 0, big_batch = 0;
  double small_norm2 = kNotMeasured, big_norm2 = kNotMeasured;
  double gradient_norm2 = kNotMeasured, noise = kNotMeasured;
};

template <class F>
void for_each_column(const NoiseScaleRow& row, F&& f) {
  f("step", row.step);
  f("small_batch", row.small_batch);
  f("big_batch", row.big_batch);
  f("small_norm2", row.small_norm2);
  f("big_norm2", row.big_norm2);
  f("gradient_norm2", row.gradient_norm2);
  f("noise", row.noise);
}

/// From `batches` disjoint batches of B training samples, drawn by (run.seed, Stream::kProbe,
/// step): small_norm2 is the mean of |g|² over them, big_norm2 that of their mean gradient, and S
/// and G² follow from both (McCandlish et al., 2018, appendix A.1). Each batch has its own groups
/// of M, so that both sizes have the same M. Fewer batches if the training set has no more; NaN if
/// it has one.
NoiseScaleRow probe_noise_scale(Trainer& trainer, int64_t batches);

struct UnitRow {
  int64_t step = 0, unit = 0;
  double p15 = kNotMeasured, p50 = kNotMeasured, p85 = kNotMeasured;
};

template <class F>
void for_each_column(const UnitRow& row, F&& f) {
  f("step", row.step);
  f("unit", row.unit);
  f("p15", row.p15);
  f("p50", row.p50);
  f("p85", row.p85);
}

/// Percentiles of what the last hidden activation receives, for its first `units` units. Networks
/// activate in place; what the activation received is computed again in float64 from the layer
/// before it, so that relu's negative inputs are there too. Empty for a network without hidden
/// layers.
std::vector<UnitRow> probe_units(Trainer& trainer, int64_t units, int64_t population);

/// M of the trainer's options: samples behind one mean and variance, B/V (rounded down) where they
/// are a shard's; 0 without batch norm.
int64_t normalization_batch(const Trainer& trainer);

}  // namespace syncbn
