// One trial: a training with its measurements, as JSON and CSV texts. No files, no printing.
#pragma once

#include <c10/core/Device.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "data/dataset.hpp"
#include "study/plan.hpp"
#include "train/trainer.hpp"

namespace syncbn {

/// The ranks that a trial runs on.
struct Lane {
  CommPtr host;  ///< for host tensors and control
  CommPtr comm;  ///< for tensors on `device`
  at::Device device{at::kCPU};
  int64_t look_every = 0;  ///< Trainer's
};

struct TrialResult {     // NOLINT(bugprone-exception-escape): JSON moves without throwing
  bool finished = true;  ///< false: stopped on request, nothing to keep
  nlohmann::ordered_json metadata;  ///< metadata.json, but for the options and where it ran
  std::vector<std::pair<std::string, std::string>> tables;  ///< file name and content
};

/// Collective over the lane. Trains with `options` and measures as `study` says; trials that tune
/// are measured on the validation split alone. `on_progress` as Trainer's. A loss that is not
/// finite, or after an epoch above three times that of the first step, is a result: DIVERGED.
///
/// Targets, per validation error: the first of two consecutive evaluations, by running statistics,
/// that are at or below it (Shallue et al., 2019, section 3.1 count steps to the first evaluation).
TrialResult run_trial(const Lane& lane, const Options& options, const StudyOptions& study,
                      Stage stage, const Dataset& data, const Trainer::OnProgress& on_progress);

}  // namespace syncbn
