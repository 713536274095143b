// What is measured around an epoch, brought together from all ranks.
#pragma once

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

}  // namespace syncbn
