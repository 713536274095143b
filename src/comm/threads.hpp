// Internal to comm/*.cpp and its tests: the threads of ranks, as a function of gathered facts.
#pragma once

#include <string>
#include <vector>

#include "comm/runtime.hpp"

namespace syncbn {

/// What one rank knows of its cores.
struct CoreFacts {
  std::string host;
  std::vector<int> cores;  ///< those it may run on
  std::vector<int>
      offered;          ///< those its launcher may run on; more than `cores` if the rank is bound
  int omp_threads = 0;  ///< OMP_NUM_THREADS; 0 if not set
};

/// The plan of every world rank; the contract is that of plan_threads (runtime.hpp). All plans
/// carry the same warnings.
std::vector<ThreadPlan> plan_all_threads(const std::vector<CoreFacts>& ranks, int requested);

}  // namespace syncbn
