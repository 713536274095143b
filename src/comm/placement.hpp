// Internal to comm/*.cpp and its tests: where ranks compute, as a function of gathered facts.
#pragma once

#include <string>
#include <vector>

#include "comm/cuda_device.hpp"
#include "comm/runtime.hpp"

namespace syncbn {

struct DeviceFacts {
  std::string bus_id, name;
};

/// What one rank knows: its host, its place there, the devices that it sees.
struct RankFacts {
  std::string host;
  int local_rank = 0;
  std::vector<DeviceFacts> devices;
  std::string obstacle{};  ///< why CUDA does not work here though there is a driver; may be empty
};

/// Why a host with an NVIDIA driver has no device for this build; empty where there is no driver,
/// or nothing is wrong. CUDA's runtime needs a driver of at least its own major version (NVIDIA,
/// "CUDA Compatibility", minor version compatibility).
std::string cuda_obstacle(const cuda::Facts& facts);

/// The placement of rank `rank`; the contract is choose_placement's (runtime.hpp). `ranks`: the
/// facts of all world ranks. Throws the same UsageError for every rank.
Placement plan_placement(const std::vector<RankFacts>& ranks, int rank, const std::string& device,
                         const std::string& backend, bool have_nccl);

}  // namespace syncbn
