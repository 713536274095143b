// Internal to comm/*.cpp and its tests: the communicator for CUDA tensors over NCCL.
#pragma once

#include <c10/core/Device.h>

#include "comm/communicator.hpp"

namespace syncbn {

/// Collective over `control`, an MPI communicator of the same ranks, which carries what stays on
/// the host. `device` is this rank's, and no other rank's. What takes longer than `limit_s` seconds
/// (≤ 0: no limit) throws Error(kWatchdog): the ranks finding each other here, starting a call,
/// wait(). The stub throws UsageError(kUnavailable).
///
/// A single rank needs no NCCL and starts none, unless `even_alone`: one GPU can test no more.
CommPtr make_nccl_communicator(CommPtr control, at::Device device, double limit_s,
                               bool even_alone = false);

}  // namespace syncbn
