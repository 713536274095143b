// Internal to comm/*.cpp and its tests: where ranks compute, as a function of gathered facts.
#pragma once

#include <string>
#include <vector>

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
};

/// The placement of rank `rank`; the contract is choose_placement's (runtime.hpp). `ranks`: the
/// facts of all world ranks. Throws the same UsageError for every rank.
Placement plan_placement(const std::vector<RankFacts>& ranks, int rank, const std::string& device,
                         const std::string& backend, bool have_nccl);

}  // namespace syncbn
