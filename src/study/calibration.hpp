// How fast this machine trains, from a short measurement: for --dry-run.
#pragma once

#include <string>

#include "study/plan.hpp"

namespace syncbn {

/// Seconds = step_s · steps + operation_s · operations, on one rank.
struct Speed {
  double step_s = 0, operation_s = 0;
  std::string measured;  ///< in words, for the console
  double seconds(const Work& work) const {
    return step_s * work.steps + operation_s * work.operations;
  }
};

/// From the seconds of a step of few operations and of one of many (many ≥ few > 0): neither part
/// is negative, and both steps of one size tell of operations alone.
Speed speed_of(double few, double few_s, double many, double many_s);

/// Collective over the world. Rank 0 alone takes steps, for a fraction of a second each, of the
/// cells whose steps take the fewest and the most operations.
Speed calibrate(Runtime& runtime, const CommPtr& comm, at::Device device, const Plan& plan,
                DataSets& data);

}  // namespace syncbn
