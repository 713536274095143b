// The few facts of CUDA that syncbn needs, with a stub source when LibTorch has no CUDA.
// Errors: a failing CUDA call throws Error(kSystem).
#pragma once

#include <cstdint>
#include <string>

namespace syncbn::cuda {

/// What CUDA says of itself before anything is asked of a device. Versions as CUDA counts them
/// (13.0 is 13000); 0: there is none, be it because this build has no CUDA or the host no driver.
struct Facts {
  int driver = 0;       ///< the newest CUDA that the host's driver serves
  int runtime = 0;      ///< the CUDA compiled against
  std::string failure;  ///< why CUDA cannot list its devices; empty if it can, or sees none
};
Facts facts();

/// Devices visible to this process; 0 without CUDA, a driver or a device. Never throws.
int device_count() noexcept;
void set_device(int index);
/// "NVIDIA H200".
std::string device_name(int index);
/// PCI bus id: equal for two ranks exactly when they share a GPU of one host.
std::string bus_id(int index);
/// Waits for all work of the current stream.
void synchronize();
/// Most bytes that LibTorch's caching allocator has held allocated on `index` since the start.
int64_t peak_memory_bytes(int index);
/// "13.0", the CUDA runtime compiled against; "none" in the stub.
std::string version();
/// "2.28.9", the NCCL that is loaded; "none" in the stub.
std::string nccl_version();

}  // namespace syncbn::cuda
