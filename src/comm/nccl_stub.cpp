// Stands in for nccl_communicator.cpp where LibTorch has no NCCL.
#include "comm/cuda_device.hpp"
#include "comm/nccl_communicator.hpp"

namespace syncbn {

CommPtr make_nccl_communicator(CommPtr, at::Device, double, bool) {
  throw UsageError("This build has no NCCL: use run.backend mpi, or build with the pinned wheels.",
                   ExitCode::kUnavailable);
}

std::string cuda::nccl_version() {
  return "none";
}

}  // namespace syncbn
