// How fast this machine trains, from a short measurement: for --dry-run.
#pragma once

#include <string>
#include <vector>

#include "study/plan.hpp"

namespace syncbn {

/// Seconds = step_s · steps + operation_s · operations, on one rank.
struct Speed {
  double step_s = 0, operation_s = 0;
  double seconds(const Work& work) const {
    return step_s * work.steps + operation_s * work.operations;
  }
};

/// From the seconds of a step of few operations and of one of many (many ≥ few > 0): neither part
/// is negative, and both steps of one size tell of operations alone.
Speed speed_of(double few, double few_s, double many, double many_s);

/// What was measured, and in words how, and why it may be far off.
struct Calibration {
  Speed fast, slow;  ///< of the quickest and the slowest block of steps
  std::string measured;
  std::vector<std::string> doubts;
};

/// A block of steps: the median of their seconds, and the share of the time that the thread which
/// took them had a core.
struct Block {
  double step_s = 0, core_share = 1;
};

/// Sentences about blocks of the same steps on `threads` threads, and one on a single thread where
/// `threads` > 1: other programs took the cores, or the threads get into each other's way.
std::vector<std::string> doubts_of(const std::vector<Block>& blocks, int threads,
                                   const Block& single);

/// Collective over the world. Rank 0 alone takes steps, about two seconds of them, of the cells
/// whose steps take the fewest and the most operations, in turns.
Calibration calibrate(Runtime& runtime, const CommPtr& comm, at::Device device, const Plan& plan,
                      DataSets& data);

}  // namespace syncbn
