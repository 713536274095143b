// A study's plan in words: what there is to do, what is done, and how long the rest should take.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "study/calibration.hpp"
#include "study/study_folder.hpp"

namespace syncbn {

/// Made and asked by rank 0 alone; reads which trials `folder` holds finished, and writes nothing.
class PlanText {
 public:
  PlanText() = default;
  PlanText(const Plan& plan, DataSets& data, StudyFolder& folder);

  /// Experiments with their cells, trials and steps; cells that wait or are dropped; seeds that
  /// look like a number of runs; how many trials are done. With a calibration: how long the others
  /// should take, and how far that can be relied on.
  std::string table(const std::optional<Calibration>& speed = std::nullopt) const;
  /// Each cell with its trials, those left, and the settings that vary within its experiment.
  std::string cells() const;

 private:
  struct CellPlan {
    size_t experiment = 0;
    std::string settings;          // those that vary
    int64_t trials = 0, done = 0;  // trials: at most
    int ranks = 1;                 // of one trial
    bool waits = false;
    Work work;  // of one trial
  };
  struct Span {  // seconds
    double low = 0, high = 0;
  };
  int64_t left(const CellPlan& cell) const { return cell.trials - cell.done; }

  std::vector<std::string> experiments_, notes_;  // notes: lines under the table
  std::vector<CellPlan> cells_;
  std::string folder_;
  int ranks_ = 1;
};

}  // namespace syncbn
