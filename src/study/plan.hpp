// The plan of a study: which trials there are, and what they should take.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.hpp"
#include "study/study_file.hpp"

namespace syncbn {

/// What a trial is for.
enum class Stage {
  kTune,   ///< to choose the learning rate, with the seeds of tune.seeds
  kFinal,  ///< the cell's result, at the chosen rate
  kNear    ///< at a neighbour of the chosen rate
};
std::string name_of(Stage stage);

/// One training of a cell.
struct Trial {
  size_t cell = 0;  ///< in the plan's cells
  Stage stage = Stage::kFinal;
  double lr = 0;  ///< train.lr
  int64_t seed = 0;
  /// "tune-lr0.1-seed101", "final-seed1", "near-lr0.05-seed1".
  std::string name() const;
};

/// A cell that cannot be run, and why.
struct Dropped {
  std::string experiment, cell, reason;
};

/// Data sets, one for each that a study's cells name; loaded once and shared by all trials, each
/// split in a random order that is the same for all studies.
class DataSets {
 public:
  explicit DataSets(Runtime& runtime) : runtime_(runtime) {}
  /// Collective at the first call for these data options, then a look-up. Throws UsageError as
  /// load_dataset.
  const Dataset& of(const Options& options);
  /// In the order of their first call, which is that of the study's cells.
  std::vector<const Dataset*> all() const;

 private:
  Runtime& runtime_;
  std::map<std::string, std::unique_ptr<Dataset>> sets_;  // by what names them
  std::vector<const Dataset*> order_;
};

/// Whether a key says what a trial finds, and not only where and how it runs.
bool decides_results(const std::string& key);

struct Plan {
  int ranks = 1;  ///< of the job
  std::vector<Experiment> experiments;
  std::vector<Cell> cells;
  std::vector<Dropped> dropped;

  /// Whether the cell's trials need more ranks than this job has, and are left for one that has.
  bool waits(size_t cell) const { return cells[cell].options.study.ranks > ranks; }
  Options options_of(const Trial& trial) const;
  std::string folder_of(const Trial& trial) const;
  /// SHA-256 over all that decides the results: cells, options, seeds; not where it runs, nor on
  /// how many ranks.
  std::string fingerprint() const;
};

/// Collective (loads the data). Throws UsageError for the first cell that cannot be run on `ranks`
/// ranks or with its data, naming it, unless study.impossible = drop: a cell that needs more ranks
/// then waits, any other is dropped. There are a million trials at most.
Plan make_plan(const std::vector<Experiment>& experiments, int ranks, DataSets& data);

/// What is known of a finished trial.
struct Outcome {
  bool diverged = false;
  double val_accuracy = 0, val_loss = 0;
  std::optional<int64_t> first_target_steps;  ///< nothing: censored
};
using OutcomeOf = std::function<const Outcome*(const Trial&)>;

/// The choice of a cell's learning rate.
struct Tuning {
  struct Rate {
    double lr = 0;
    std::vector<std::optional<double>> values;  ///< of the criterion, one per tuning seed
    std::optional<double> median;               ///< nothing: infinite
    int64_t diverged = 0;
  };
  std::vector<Rate> curve;  ///< in rising order
  double chosen = 0;
  std::string edge = "none";  ///< none | low | high: the chosen rate is the last on that side
  bool fallback = false;      ///< no rate has a median: chosen by val_accuracy
};

/// The trials of a cell as far as finished ones tell: first those that tune, then (`tuning` set)
/// the final ones. More may come as long as !settled.
struct CellTrials {
  std::vector<Trial> trials;
  std::optional<Tuning> tuning;
  bool settled = false;
};
CellTrials trials_of(const Plan& plan, size_t cell, const OutcomeOf& outcome_of);

/// Multiply-adds and steps that a trial takes, evaluations included: what time is estimated from.
struct Work {
  double steps = 0, operations = 0;
};
Work work_of(const Options& options, const StudyOptions& study, const Dataset& data, int ranks);

/// Steps between evaluations.
int64_t evaluation_steps(const StudyOptions& study, int64_t steps_per_epoch);

}  // namespace syncbn
