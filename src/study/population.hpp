// What the samples of a population look like inside a network at rest, brought together from all
// ranks. Matrices (samples, units) are float64 on the CPU, on every rank.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

#include "base/random.hpp"
#include "train/trainer.hpp"

namespace syncbn {

/// What the study draws at random, by (run.seed, Stream::kProbe, what, index).
enum class Draw : uint64_t { kLaw = 1, kScale = 2, kGroups = 3, kBatch = 4 };
RandomStream random_for(const Trainer& trainer, Draw what, int64_t index = 0);

/// What a batch-norm layer received.
struct Received {
  at::Tensor values;   ///< (n, C)
  at::Tensor largest;  ///< (C): the largest |activation| of the unit; undefined: it has none
};

/// Whether layer i of the network is an activation; false beyond its last.
bool is_activation(const Network& network, size_t i);

/// Collective. All ranks' rows of a batch of `total` samples, of which `own` are `rows`.
at::Tensor rows_of_all(Trainer& trainer, const at::Tensor& own, Range rows, int64_t total);

/// A parameter or buffer of a layer, "weight" or "running_mean", to read.
at::Tensor state_entry(Trainer& trainer, size_t layer, const std::string& name);

/// Collective. By layer, for each batch norm of the network: of the first `population` training
/// samples.
std::map<size_t, Received> norm_inputs(Trainer& trainer, int64_t population);

/// Collective. (n, ≤ units): what the last activation receives, of its first units; (n, 0) for a
/// network without one.
at::Tensor last_activation_inputs(Trainer& trainer, int64_t units, int64_t population);

}  // namespace syncbn
