#include "study/plan.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/digest.hpp"
#include "base/random.hpp"
#include "train/trainer.hpp"

namespace syncbn {
namespace {

constexpr int64_t kMostTrials = 1000000;

std::string reason_to_drop(const Cell& cell, DataSets& data) {
  const StudyOptions& study = cell.options.study;
  const Dataset& samples = data.of(cell.options.train);  // not to be dropped: throws
  try {
    const auto of_trial = static_cast<int>(study.ranks);
    validate_for_ranks(cell.options.train, of_trial);
    check_options(cell.options.train, samples, of_trial);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

// What is measured on consecutive samples, in groups of M or on the first n, is meant to be of
// random ones, and MNIST's neighbours are alike.
void shuffle(std::vector<int64_t>& rows, uint64_t index) {
  const auto order =
      RandomStream(1, Stream::kProbe, index).permutation(static_cast<int64_t>(rows.size()));
  const std::vector<int64_t> before = rows;
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = before[static_cast<size_t>(order[i])];
}

// Lower is better; what diverged or was not reached is infinite.
double badness(const Outcome& outcome, const std::string& criterion) {
  if (outcome.diverged) return INFINITY;
  if (criterion == "val_loss") return std::isfinite(outcome.val_loss) ? outcome.val_loss : INFINITY;
  if (criterion == "val_accuracy") return -outcome.val_accuracy;
  return outcome.first_target_steps ? static_cast<double>(*outcome.first_target_steps) : INFINITY;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  const double low = values[(n - 1) / 2], high = values[n / 2];
  return std::isinf(high) ? high : (low + high) / 2;
}

std::vector<const Outcome*> outcomes(const std::vector<Trial>& trials, const OutcomeOf& of) {
  std::vector<const Outcome*> found;
  found.reserve(trials.size());
  for (const Trial& trial : trials) found.push_back(of(trial));
  return found;
}

double median_badness(const std::vector<const Outcome*>& of_rate, const std::string& criterion) {
  std::vector<double> values;
  values.reserve(of_rate.size());
  for (const Outcome* outcome : of_rate) values.push_back(badness(*outcome, criterion));
  return median(values);
}

Tuning::Rate rate_of(double lr, const std::vector<const Outcome*>& of_rate,
                     const std::string& criterion) {
  const double sign = criterion == "val_accuracy" ? -1 : 1;
  const auto shown = [&](double value) {
    return std::isinf(value) ? std::nullopt : std::optional(sign * value);
  };
  Tuning::Rate rate{lr, {}, shown(median_badness(of_rate, criterion)), 0};
  for (const Outcome* outcome : of_rate) {
    rate.values.push_back(shown(badness(*outcome, criterion)));
    rate.diverged += outcome->diverged ? 1 : 0;
  }
  return rate;
}

// The index of the best rate; ties go to the better accuracy, then to the lower rate.
size_t best_rate(const std::vector<std::vector<const Outcome*>>& by_rate,
                 const std::string& criterion) {
  const auto key = [&](size_t i) {
    return std::pair(median_badness(by_rate[i], criterion),
                     median_badness(by_rate[i], "val_accuracy"));
  };
  size_t best = 0;
  for (size_t i = 1; i < by_rate.size(); ++i) {
    if (key(i) < key(best)) best = i;
  }
  return best;
}

// The rate that a grid's ratio leads to.
double beyond(double edge, double neighbour) {
  return std::stod(four_digits(edge * edge / neighbour));
}

// The trials of a cell's tuning: the grid, and what is tried beyond an end that turns out best.
class Tuner {
 public:
  Tuner(const Plan& plan, size_t cell, const OutcomeOf& outcome_of)
      : study_(plan.cells[cell].options.study),
        cell_(cell),
        outcome_of_(outcome_of),
        rates_(parse_numbers("tune.lr", study_.lr)),
        seeds_(parse_integers("tune.seeds", study_.tune_seeds)) {
    std::sort(rates_.begin(), rates_.end());
  }

  CellTrials run() {
    CellTrials known;
    for (int64_t low = 0, high = 0;;) {
      known.trials = trials();
      if (!all_finished()) return known;
      choose();
      if (tuning_.edge == "low" && low++ < study_.extend) {
        rates_.insert(rates_.begin(), beyond(rates_[0], rates_[1]));
      } else if (tuning_.edge == "high" && high++ < study_.extend) {
        const size_t n = rates_.size();
        rates_.push_back(beyond(rates_[n - 1], rates_[n - 2]));
      } else {
        known.tuning = tuning_;
        return known;
      }
    }
  }

 private:
  std::vector<Trial> trials_at(double lr) const {
    std::vector<Trial> trials;
    for (const int64_t seed : seeds_) trials.push_back({cell_, Stage::kTune, lr, seed});
    return trials;
  }
  std::vector<Trial> trials() const {
    std::vector<Trial> all;
    for (const double lr : rates_) {
      for (const Trial& trial : trials_at(lr)) all.push_back(trial);
    }
    return all;
  }
  bool all_finished() {
    by_rate_.clear();
    for (const double lr : rates_) {
      by_rate_.push_back(outcomes(trials_at(lr), outcome_of_));
      const auto& found = by_rate_.back();
      if (std::count(found.begin(), found.end(), nullptr) > 0) return false;
    }
    return true;
  }
  void choose() {
    tuning_ = {};
    for (size_t i = 0; i < rates_.size(); ++i) {
      tuning_.curve.push_back(rate_of(rates_[i], by_rate_[i], study_.criterion));
    }
    size_t best = best_rate(by_rate_, study_.criterion);
    tuning_.fallback = !tuning_.curve[best].median;
    if (tuning_.fallback) best = best_rate(by_rate_, "val_accuracy");
    tuning_.chosen = rates_[best];
    if (rates_.size() > 1) {
      tuning_.edge = best == 0 ? "low" : best + 1 == rates_.size() ? "high" : "none";
    }
  }

  const StudyOptions& study_;
  size_t cell_;
  const OutcomeOf& outcome_of_;
  std::vector<double> rates_;
  std::vector<int64_t> seeds_;
  std::vector<std::vector<const Outcome*>> by_rate_;
  Tuning tuning_;
};

// The chosen rate's neighbours among those that were tried.
std::vector<double> neighbours(const Tuning& tuning) {
  std::vector<double> found;
  for (size_t i = 0; i < tuning.curve.size(); ++i) {
    if (tuning.curve[i].lr != tuning.chosen) continue;
    if (i > 0) found.push_back(tuning.curve[i - 1].lr);
    if (i + 1 < tuning.curve.size()) found.push_back(tuning.curve[i + 1].lr);
  }
  return found;
}

}  // namespace

std::string name_of(Stage stage) {
  return stage == Stage::kTune ? "tune" : stage == Stage::kFinal ? "final" : "near";
}

std::string Trial::name() const {
  const std::string rate = stage == Stage::kFinal ? "" : "-lr" + write_value(lr);
  return concat(name_of(stage), rate, "-seed", seed);
}

const Dataset& DataSets::of(const Options& options) {
  Options shared = options;
  shared.run.seed = 1;  // trials of all seeds share the data
  const auto& data = shared.data;
  const std::string name =
      concat(data.name, " ", data.dir, " ", data.classes, " ", data.label_offset, " ", data.limit,
             " ", data.validation, " ", shared.seed.split);
  auto& set = sets_[name];
  if (set) return *set;
  set = std::make_unique<Dataset>(load_dataset(runtime_, shared));
  order_.push_back(set.get());
  uint64_t index = 0;
  for (Split* split : {&set->train, &set->validation, &set->test}) shuffle(split->rows, index++);
  return *set;
}

std::vector<const Dataset*> DataSets::all() const {
  return order_;
}

Options Plan::options_of(const Trial& trial) const {
  Options options = cells[trial.cell].options.train;
  options.run.seed = trial.seed;
  options.train.lr = trial.lr;
  return options;
}

std::string Plan::folder_of(const Trial& trial) const {
  return cells[trial.cell].folder() + "/" + trial.name();
}

bool decides_results(const std::string& key) {
  static const std::set<std::string> others = {"data.dir",    "run.device",  "run.backend",
                                               "run.threads", "run.timeout", "run.check",
                                               "study.title", "study.out"};
  return others.count(key) == 0;
}

std::string Plan::fingerprint() const {
  std::string text;
  for (const Cell& cell : cells) {
    text += cell.folder() + "\n";
    const auto add = [&](const std::string& key, const auto& field, const char*) {
      if (decides_results(key)) text += concat(key, " = ", write_value(field), "\n");
    };
    for_each_option(cell.options.train, add);
    for_each_option(cell.options.study, add);
  }
  return sha256({text});
}

Plan make_plan(const std::vector<Experiment>& experiments, int ranks, DataSets& data) {
  Plan plan;
  plan.ranks = ranks;
  plan.experiments = experiments;
  int64_t trials = 0;
  for (const Experiment& experiment : experiments) {
    for (Cell& cell : cells_of(experiment)) {
      const int64_t needed = cell.options.study.ranks;
      const bool drops = cell.options.study.impossible == "drop";
      std::string reason = reason_to_drop(cell, data);
      const bool possible = reason.empty();
      if (needed > ranks && possible) {
        reason = concat("study.ranks = ", needed, " needs mpirun -n ", needed, " or more");
      }
      if (!reason.empty() && !drops) {
        throw UsageError(concat("[experiment ", experiment.name, "], cell ", cell.name, ": ",
                                reason, " (study.impossible = drop leaves such cells out)"),
                         ExitCode::kConfig);
      }
      trials += most_trials(cell.options.study);
      if (trials > kMostTrials) {
        throw UsageError(concat("[experiment ", experiment.name, "], cell ", cell.name, ": more ",
                                "than ", kMostTrials, " trials up to here; expected at most that ",
                                "many in a study: leave out cells, rates of tune.lr or seeds"),
                         ExitCode::kConfig);
      }
      if (possible) {
        plan.cells.push_back(std::move(cell));
      } else {
        plan.dropped.push_back({experiment.name, cell.name, reason});
      }
    }
  }
  return plan;
}

CellTrials trials_of(const Plan& plan, size_t cell, const OutcomeOf& outcome_of) {
  const TrialOptions& options = plan.cells[cell].options;
  CellTrials known;
  if (!options.study.lr.empty()) known = Tuner(plan, cell, outcome_of).run();
  if (!options.study.lr.empty() && !known.tuning) return known;
  known.settled = true;
  const double chosen = known.tuning ? known.tuning->chosen : options.train.train.lr;
  for (const int64_t seed : parse_integers("study.seeds", options.study.seeds)) {
    known.trials.push_back({cell, Stage::kFinal, chosen, seed});
    if (!known.tuning || !options.study.neighbours) continue;
    for (const double lr : neighbours(*known.tuning)) {
      known.trials.push_back({cell, Stage::kNear, lr, seed});
    }
  }
  return known;
}

int64_t evaluation_steps(const StudyOptions& study, int64_t steps_per_epoch) {
  if (study.every_steps > 0) return study.every_steps;
  constexpr double kLeast = 10, kMost = 1e12;  // more steps than any trial has
  return static_cast<int64_t>(
      std::clamp(std::ceil(static_cast<double>(steps_per_epoch) / study.per_epoch), kLeast, kMost));
}

Work work_of(const Options& options, const StudyOptions& study, const Dataset& data, int ranks) {
  int64_t weights = 0, inputs = data.train.pixels();
  for (const int64_t size : parse_sizes("model.hidden", options.model.hidden)) {
    weights += inputs * size;
    inputs = size;
  }
  weights += inputs * data.classes;
  const int64_t batch = global_batch(options.train, ranks), samples = data.train.size();
  const int64_t per_epoch =
      options.train.drop_last ? samples / batch : (samples + batch - 1) / batch;
  int64_t steps = options.train.epochs * per_epoch;
  if (options.train.max_steps >= 0) steps = std::min(steps, options.train.max_steps);
  const int64_t evaluations = 1 + steps / evaluation_steps(study, per_epoch);
  const int64_t full = study.full_every > 0 ? evaluations / study.full_every + 1 : 1;
  const auto of = [](int64_t n) { return static_cast<double>(n); };
  const double evaluated =
      of(evaluations) * of(data.validation.size()) +
      of(full) * (3 * of(data.test.size() + data.validation.size()) + 2 * of(study.train_samples) +
                  of(std::min(study.population, samples)));
  const double probed = of(full) * of(study.noise_scale * batch) * 3;
  return {of(steps), of(weights) * (3 * of(steps * batch) + evaluated + probed)};
}

}  // namespace syncbn
