// The runner: shares out a study's trials among the ranks, the longest first.
//
// The world is cut into lanes of as many ranks as a trial needs (study.ranks; canonical sums make
// the result the same on any number), first those of the trials that need most. Each lane claims
// one trial after the other by a lock in the study's folder and talks to no other lane, so that a
// lane is never left waiting for another's trial, and several jobs may work on one study. A rank
// that finds nothing to do looks again until the last trial of its width is finished, because a
// tuning that ends makes new ones.
#pragma once

#include "comm/runtime.hpp"
#include "study/study_folder.hpp"

namespace syncbn {

struct RunnerResult {
  bool stopped = false;            ///< on request, with trials left
  int64_t done = 0, diverged = 0;  ///< of all, by this job or before
  int64_t ran = 0;                 ///< by this rank's lane, counted by its first rank
  double busy_s = 0;               ///< rank-seconds that these took
};

/// Collective over the world. Runs all trials of `plan` that are not finished. `comm`: all ranks,
/// for tensors on `device`. Throws Error on the rank where a trial fails for another reason than
/// divergence, naming the trial: the job ends, and goes on from there when it is started again.
RunnerResult run_trials(Runtime& runtime, const CommPtr& comm, at::Device device, const Plan& plan,
                        DataSets& data, StudyFolder& folder);

}  // namespace syncbn
