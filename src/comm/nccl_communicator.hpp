// Internal to comm/*.cpp and its tests: the communicator for CUDA tensors over NCCL.
#pragma once

#include <c10/core/Device.h>

#include "comm/communicator.hpp"

namespace syncbn {

/// Collective over `control`, an MPI communicator of the same ranks, which carries what stays on
/// the host. `device` is this rank's, and no other rank's. Throws Error(kWatchdog) if the ranks do
/// not find each other in time; the stub throws UsageError(kUnavailable).
///
/// A single rank needs no NCCL and starts none, unless `even_alone`: one GPU can test no more.
CommPtr make_nccl_communicator(CommPtr control, at::Device device, bool even_alone = false);

}  // namespace syncbn
