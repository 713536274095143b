// A run, from options to results: the main path of the program.
#pragma once

#include "base/options.hpp"
#include "comm/runtime.hpp"
#include "train/metrics.hpp"

namespace syncbn {

/// Collective over the runtime's world. Trains as `options` say and writes the run's folder; prints
/// what it does on rank 0.
///
/// Returns the last row that it wrote; an empty one where it wrote none: for train.max_steps = 0
/// without model.weights, for --resume of a run that has ended, and for --dry-run, which loads and
/// checks everything, prints the tables and writes nothing. Throws UsageError on all
/// ranks for what a user can mend, Error otherwise.
MetricsRow run_training(Runtime& runtime, const Options& options, const CommandLine& line);

}  // namespace syncbn
