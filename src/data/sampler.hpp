// The order of samples: global batches first, rank shares second.
//
// One permutation per epoch, a pure function of (seed, epoch). Global batch k is
// permutation[kB, min((k+1)B, n)); rank r of R takes rows [⌊rb/R⌋, ⌊(r+1)b/R⌋) of a batch of b
// samples. So what a step sees depends on (seed, epoch, B) and never on R, and shares of one batch
// differ by at most one sample; a share may be empty. With a seed for grouping each batch is
// permuted within itself, by (that seed, epoch, k): the same samples in a step, in other statistics
// groups. Not collective, no communication.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/range.hpp"

namespace syncbn {

class BatchSampler {
 public:
  /// n samples in global batches of `batch`; the short last one is kept unless drop_last.
  BatchSampler(int64_t n, int64_t batch, uint64_t seed, bool drop_last,
               std::optional<uint64_t> grouping = std::nullopt);

  /// Makes the order of `epoch` (0-based). Any epoch, in any order.
  void start_epoch(int64_t epoch);
  int64_t steps_per_epoch() const;
  /// Samples in global batch `step` (B, or fewer for the last one).
  int64_t batch_size(int64_t step) const;
  /// The samples of rows `rows` of global batch `step`; valid until the next start_epoch.
  const int64_t* samples(int64_t step, Range rows) const;

 private:
  void regroup(int64_t epoch);

  int64_t n_, batch_;
  uint64_t seed_;
  bool drop_last_;
  std::optional<uint64_t> grouping_;
  std::vector<int64_t> order_;
};

}  // namespace syncbn
