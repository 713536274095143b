#include "study/plan_text.hpp"

#include <algorithm>
#include <iomanip>
#include <map>
#include <set>
#include <sstream>

#include "base/log.hpp"

namespace syncbn {
namespace {

constexpr double kMostSteps = 1e18;  // shown
constexpr size_t kWidest = 76;       // of a cell's settings
constexpr size_t kMostCells = 40;    // listed of an experiment
constexpr size_t kCellsAtEnd = 10;   // of these

// The axes' keys that take more than one value among an experiment's cells.
std::set<std::string> varying_keys(const Plan& plan, const std::string& experiment) {
  std::map<std::string, std::set<std::string>> values;
  for (const Cell& cell : plan.cells) {
    if (cell.experiment != experiment) continue;
    for (const auto& [key, value] : cell.settings) values[key].insert(value);
  }
  std::set<std::string> keys;
  for (const auto& [key, found] : values) {
    if (found.size() > 1) keys.insert(key);
  }
  return keys;
}

// What is too long is cut in its middle: neighbours differ at their ends.
std::string settings_text(const Cell& cell, const std::set<std::string>& keys) {
  std::string text;
  for (const auto& [key, value] : cell.settings) {
    if (keys.count(key) != 0) text += concat(text.empty() ? "" : "  ", key, "=", value);
  }
  if (text.empty()) return cell.name;
  if (text.size() <= kWidest) return text;
  return text.substr(0, kWidest / 2) + "…" + text.substr(text.size() - kWidest / 2);
}

std::string duration(double low, double high) {
  const std::string from = format_duration(low), to = format_duration(high);
  return from == to ? from : from + " to " + to;
}

}  // namespace

PlanText::PlanText(const Plan& plan, DataSets& data, StudyFolder& folder)
    : folder_(folder.path()), ranks_(plan.ranks) {
  std::map<std::string, std::set<std::string>> varying;
  std::map<std::string, size_t> places;
  for (const Experiment& experiment : plan.experiments) {
    places[experiment.name] = experiments_.size();
    experiments_.push_back(experiment.name);
    varying[experiment.name] = varying_keys(plan, experiment.name);
    const std::string note = seeds_note(experiment.base.study);
    if (!note.empty()) notes_.push_back(concat("note: ", experiment.name, ": ", note));
  }
  for (size_t c = 0; c < plan.cells.size(); ++c) {
    const Cell& cell = plan.cells[c];
    const TrialOptions& options = cell.options;
    CellPlan planned;
    planned.experiment = places.at(cell.experiment);
    planned.settings = settings_text(cell, varying.at(cell.experiment));
    planned.ranks = static_cast<int>(options.study.ranks);
    planned.waits = plan.waits(c);
    planned.work = work_of(options.train, options.study, data.of(options.train), planned.ranks);
    const auto known =
        trials_of(plan, c, [&](const Trial& trial) { return folder.outcome(trial); });
    planned.done = std::count_if(known.trials.begin(), known.trials.end(), [&](const Trial& trial) {
      return folder.outcome(trial) != nullptr;
    });
    const auto named = static_cast<int64_t>(known.trials.size());
    planned.trials = known.settled ? named : std::max(named, most_trials(options.study));
    cells_.push_back(planned);
    if (planned.waits) {
      notes_.push_back(
          concat("waiting: ", cell.folder(), ": needs mpirun -n ", planned.ranks, " or more"));
    }
  }
  for (const Dropped& cell : plan.dropped) {
    notes_.push_back(concat("dropped: ", cell.experiment, "/", cell.cell, ": ", cell.reason));
  }
}

std::string PlanText::table(const std::optional<Calibration>& speed) const {
  std::ostringstream out;
  out << std::left << "  " << std::setw(32) << "experiment" << std::right << std::setw(7) << "cells"
      << std::setw(8) << "trials" << std::setw(12) << "steps" << std::setw(8) << "left"
      << (speed ? "     time on one rank\n" : "\n");
  Span all, longest;
  int64_t all_left = 0, all_done = 0;
  for (size_t e = 0; e < experiments_.size(); ++e) {
    int64_t cells = 0, trials = 0, to_do = 0;
    double steps = 0;
    Span span;
    for (const CellPlan& cell : cells_) {
      if (cell.experiment != e || cell.waits) continue;
      const auto n = static_cast<double>(left(cell));
      ++cells;
      trials += cell.trials;
      to_do += left(cell);
      all_done += cell.done;
      steps += static_cast<double>(cell.trials) * cell.work.steps;
      if (!speed || n == 0) continue;
      const double low = speed->fast.seconds(cell.work), high = speed->slow.seconds(cell.work);
      span = {span.low + n * std::min(low, high), span.high + n * std::max(low, high)};
      longest = {std::max(longest.low, std::min(low, high) / cell.ranks),
                 std::max(longest.high, std::max(low, high) / cell.ranks)};
    }
    out << "  " << std::left << std::setw(32) << experiments_[e] << std::right << std::setw(7)
        << cells << std::setw(8) << trials << std::setw(12)
        << static_cast<int64_t>(std::min(steps, kMostSteps)) << std::setw(8) << to_do;
    if (speed) out << std::setw(21) << duration(span.low, span.high);
    out << '\n';
    all = {all.low + span.low, all.high + span.high};
    all_left += to_do;
  }
  for (const std::string& note : notes_) out << "  " << note << '\n';
  if (all_done > 0) {
    out << "  " << folder_ << " holds " << all_done << " of these trials; " << all_left
        << " are left\n";
  }
  if (!speed) return out.str();
  // No trial is shorter than it is, however many ranks there are.
  out << "  estimated from " << speed->measured << ": " << all_left << " trials in "
      << duration(std::max(all.low / ranks_, longest.low),
                  std::max(all.high / ranks_, longest.high))
      << " on " << ranks_ << (ranks_ == 1 ? " rank" : " ranks") << '\n';
  for (const std::string& doubt : speed->doubts) out << "  doubtful: " << doubt << '\n';
  return out.str();
}

std::string PlanText::cells() const {
  std::ostringstream out;
  for (size_t e = 0; e < experiments_.size(); ++e) {
    std::vector<const CellPlan*> cells;
    for (const CellPlan& cell : cells_) {
      if (cell.experiment == e) cells.push_back(&cell);
    }
    if (cells.empty()) continue;
    out << "  cells of " << experiments_[e] << ":\n";
    for (size_t i = 0; i < cells.size(); ++i) {
      const CellPlan& cell = *cells[i];
      if (cells.size() > kMostCells && i == kMostCells - kCellsAtEnd) {
        const size_t hidden = cells.size() - kMostCells;
        out << "    … " << hidden << " more\n";
        i += hidden - 1;
        continue;
      }
      out << std::setw(8) << cell.trials << (cell.trials == 1 ? " trial,  " : " trials, ")
          << std::setw(5) << left(cell) << " left  " << cell.settings << '\n';
    }
  }
  return out.str();
}

}  // namespace syncbn
