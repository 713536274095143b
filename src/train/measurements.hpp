// What is measured around an epoch, brought together from all ranks.
#pragma once

#include <c10/util/ThreadLocalDebugInfo.h>

#include <memory>

#include "comm/communicator.hpp"
#include "train/metrics.hpp"
#include "train/trainer.hpp"

namespace syncbn {

/// Collective over `world` (host tensors). The row of the epoch that has just been trained and
/// evaluated; `before`: the epoch before's row. Times are means over ranks, memory the largest. On
/// CUDA forward, backward and optimizer count the time to enqueue, because the step never waits for
/// the device; `samples_per_s` counts everything.
MetricsRow measure(const MetricsRow& before, Trainer& trainer, const Score& trained,
                   const Score& validated, double samples_per_s, Communicator& world,
                   at::Device device);

/// Most memory that this process has used: resident set (getrusage) on the CPU, LibTorch's
/// allocator on CUDA.
int64_t peak_memory_bytes(at::Device device);

/// While it lives, counts the bytes that LibTorch allocates for tensors on this thread, on the CPU
/// and on CUDA together; what was allocated before does not count, nor does its end, of which
/// LibTorch warns on stderr: make it before what it measures. One at a time, in the place of
/// LibTorch's own profiler.
class TensorMemory {
 public:
  TensorMemory();
  int64_t live() const;
  int64_t peak() const;

 private:
  class Ledger;
  std::shared_ptr<Ledger> ledger_;
  c10::DebugInfoGuard guard_;
};

}  // namespace syncbn
