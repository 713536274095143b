#include "train/best.hpp"

namespace syncbn {

BestEpoch epoch_of(const MetricsRow& row) {
  return {row.epoch, row.step, row.val_accuracy, row.val_loss};
}

bool is_better(const BestEpoch& epoch, const BestEpoch& than) {
  if (epoch.val_accuracy != than.val_accuracy) return epoch.val_accuracy > than.val_accuracy;
  return epoch.val_loss < than.val_loss;
}

}  // namespace syncbn
