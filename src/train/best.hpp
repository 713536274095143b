// The best epoch of a run so far, by validation, and its model (run.keep_best).
#pragma once

#include <cstdint>
#include <optional>

#include "train/metrics.hpp"
#include "train/safetensors.hpp"

namespace syncbn {

struct BestEpoch {
  int64_t epoch = 0, step = 0;
  double val_accuracy = 0, val_loss = 0;
};

/// What a row says of its epoch.
BestEpoch epoch_of(const MetricsRow& row);

/// A higher val_accuracy, or the same with a lower val_loss; where both are the same, neither is
/// better, so that the earlier epoch stays.
bool is_better(const BestEpoch& epoch, const BestEpoch& than);

struct BestModel {
  BestEpoch of;
  NamedTensors tensors;  ///< under the names of Replica::state_dict(), on the CPU
};

}  // namespace syncbn
