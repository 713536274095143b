#include "study/run_study.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iomanip>
#include <nlohmann/json.hpp>

#include "base/digest.hpp"
#include "base/log.hpp"
#include "comm/arithmetic.hpp"
#include "comm/watchdog.hpp"
#include "study/calibration.hpp"
#include "study/runner.hpp"
#include "train/description.hpp"

namespace syncbn {
namespace {

using Json = nlohmann::ordered_json;

// Trials of a cell that are sure to come: those that tune, and the final ones.
int64_t planned_trials(const TrialOptions& options) {
  const auto count = [](const auto& list) { return static_cast<int64_t>(list.size()); };
  const StudyOptions& study = options.study;
  const int64_t final = count(parse_integers("study.seeds", study.seeds));
  const int64_t rates = count(parse_numbers("tune.lr", study.lr));
  return final + rates * count(parse_integers("tune.seeds", study.tune_seeds));
}

Json experiment_json(const Plan& plan, const Experiment& experiment) {
  const StudyOptions& study = experiment.base.study;
  Json axes = Json::array(), cells = Json::array(), dropped = Json::array(), tune = nullptr;
  for (const Axis& axis : experiment.axes) {
    axes.push_back({{"keys", axis.keys}, {"values", axis.values}});
  }
  for (const Cell& cell : plan.cells) {
    if (cell.experiment != experiment.name) continue;
    cells.push_back({{"cell", cell.name},
                     {"trials", planned_trials(cell.options)},
                     {"ranks", cell.options.study.ranks}});
  }
  for (const Dropped& cell : plan.dropped) {
    if (cell.experiment != experiment.name) continue;
    dropped.push_back({{"cell", cell.cell}, {"reason", cell.reason}});
  }
  if (!study.lr.empty()) {
    tune = {{"lr", parse_numbers("tune.lr", study.lr)},
            {"seeds", parse_integers("tune.seeds", study.tune_seeds)},
            {"criterion", study.criterion},
            {"extend", study.extend}};
  }
  return {{"name", experiment.name},
          {"title", study.title},
          {"seeds", parse_integers("study.seeds", study.seeds)},
          {"targets", parse_numbers("measure.targets", study.targets)},
          {"axes", axes},
          {"tune", tune},
          {"cells", cells},
          {"dropped", dropped}};
}

Json study_json(Runtime& runtime, const Plan& plan, const DataSets& data, const CommandLine& line,
                const std::string& name, const std::string& device,
                const std::vector<std::string>& hosts) {
  Json sets = Json::object(), experiments = Json::array();
  for (const auto& [key, set] : data.all()) sets[set->name] = set->digests;
  for (const Experiment& experiment : plan.experiments) {
    experiments.push_back(experiment_json(plan, experiment));
  }
  const std::string& title = plan.experiments.front().base.study.title;
  return {{"format", 1},
          {"name", name},
          {"title", title.empty() ? name : title},
          {"command", line.words},
          {"started", now_utc()},
          {"ranks", runtime.size()},
          {"hosts", hosts},
          {"device", device},
          {"arithmetic", arithmetic()},
          {"versions", Json::parse(versions_json())},
          {"data", sets},
          // Results of other data or another kind of device do not belong together.
          {"fingerprint", sha256({plan.fingerprint(), sets.dump(), device.substr(0, 4)})},
          {"experiments", experiments}};
}

// The plan as a table, with the time that it should take if that is known.
std::string describe(const Plan& plan, DataSets& data, int ranks,
                     const std::optional<Speed>& speed) {
  std::ostringstream out;
  out << std::left << "  " << std::setw(32) << "experiment" << std::right << std::setw(7) << "cells"
      << std::setw(8) << "trials" << std::setw(12) << "steps";
  out << (speed ? "     time of one rank\n" : "\n");
  double seconds = 0;
  int64_t all_trials = 0;
  for (const Experiment& experiment : plan.experiments) {
    int64_t cells = 0, trials = 0;
    double steps = 0, of_experiment = 0;
    for (size_t c = 0; c < plan.cells.size(); ++c) {
      const Cell& cell = plan.cells[c];
      if (cell.experiment != experiment.name || plan.waits(c)) continue;
      const auto of_trial = static_cast<int>(cell.options.study.ranks);
      const StudyOptions& study = cell.options.study;
      const bool near = study.neighbours && !study.lr.empty();
      const auto finals = static_cast<int64_t>(parse_integers("study.seeds", study.seeds).size());
      const int64_t n = planned_trials(cell.options) + (near ? 2 * finals : 0);  // at most
      const Work work =
          work_of(cell.options.train, cell.options.study, data.of(cell.options.train), of_trial);
      ++cells;
      trials += n;
      steps += static_cast<double>(n) * work.steps;
      if (speed) of_experiment += static_cast<double>(n) * speed->seconds(work);
    }
    out << "  " << std::left << std::setw(32) << experiment.name << std::right << std::setw(7)
        << cells << std::setw(8) << trials << std::setw(12) << static_cast<int64_t>(steps);
    if (speed) out << std::setw(21) << format_duration(of_experiment);
    out << '\n';
    seconds += of_experiment;
    all_trials += trials;
  }
  for (size_t c = 0; c < plan.cells.size(); ++c) {
    if (!plan.waits(c)) continue;
    out << "  waiting: " << plan.cells[c].folder() << ": needs mpirun -n "
        << plan.cells[c].options.study.ranks << " or more\n";
  }
  for (const Dropped& cell : plan.dropped) {
    out << "  dropped: " << cell.experiment << "/" << cell.cell << ": " << cell.reason << '\n';
  }
  if (speed) {
    out << "  estimated from " << speed->measured << ": " << all_trials << " trials in "
        << format_duration(seconds / ranks) << " on " << ranks << (ranks == 1 ? " rank" : " ranks")
        << '\n';
  }
  return out.str();
}

// Other options on another rank would be another plan.
std::string settings_text(const CommandLine& line) {
  std::string text;
  for (const auto& [key, value] : line.settings) text += concat("--", key, " ", value, "\n");
  return text;
}

// Every rank must see the folder that rank 0 has made, since lanes share out trials through it.
void create(Runtime& runtime, StudyFolder& folder, const std::string& text, const Json& json) {
  agree(*runtime.world(), [&] {
    if (runtime.rank() == 0) folder.create(text, json);
  });
  agree(*runtime.world(), [&] {
    if (std::filesystem::exists(folder.path() + "/study.json")) return;
    throw Error(concat("'", folder.path(), "' of rank 0 is not there on ", runtime.host(),
                       ": a study needs a folder that all hosts share; name one with --study.out"),
                ExitCode::kCannotCreate);
  });
}

void summarise(const Plan& plan, const StudyFolder& folder, const RunnerResult& result, int64_t ran,
               double busy) {
  log_info(concat("done     ", result.done, " trials, ", ran, " of them now",
                  result.diverged > 0 ? concat("; ", result.diverged, " diverged") : ""));
  int64_t needed = 0;
  for (size_t c = 0; c < plan.cells.size(); ++c) {
    if (plan.waits(c)) needed = std::max(needed, plan.cells[c].options.study.ranks);
  }
  if (needed > 0) {
    log_info(concat("waiting  trials of more than ", plan.ranks,
                    " ranks; the same command under mpirun -n ", needed, " goes on with them"));
  }
  if (ran > 0) log_info(concat("ranks    busy ", std::lround(100 * busy), " % of the time"));
  log_info("results  " + folder.path() + "; launch/report.sh makes a page of them");
}

}  // namespace

ProgramOptions study_program() {
  ProgramOptions program{"syncbn-study",
                         "configs/studies/notebook_claims_smoke.ini",
                         {"dry-run", "help", "version"},
                         help_of(StudyOptions())};
  const auto trainings = help_of(Options());
  program.options.insert(program.options.end(), trainings.begin(), trainings.end());
  return program;
}

void run_study(Runtime& runtime, const CommandLine& line, const std::string& text) {
  // What to run, where, and on what.
  if (line.config.empty()) throw UsageError("a study needs a file: give it with --config");
  agree_same(*runtime.world(), settings_text(line), "the command line");
  const auto experiments = parse_study(line, text, line.config);
  const Options& base = experiments.front().base.train;
  runtime.watchdog().set_limit(base.run.timeout, Watched::kEverything);
  runtime.watchdog().beat("choosing where to compute");
  agree_same(*runtime.world(), arithmetic(), "the arithmetic that a study needs alike");
  const Placement placement = choose_placement(runtime, base.run.device, base.run.backend);
  const ThreadPlan threads = plan_threads(runtime, static_cast<int>(base.run.threads));
  for (const std::string& warning : threads.warnings) log_warning(warning);
  const CommPtr comm = make_communicator(runtime, placement, base.run.timeout);
  runtime.watchdog().beat("loading the data");
  DataSets data(runtime);
  const Plan plan = make_plan(experiments, runtime.size(), data);
  if (line.dry_run) {
    const Speed speed = calibrate(runtime, comm, placement.device, plan, data);
    log_info(describe(plan, data, runtime.size(), speed) +
             "dry run: nothing was trained or written");
    return;
  }
  log_info(describe(plan, data, runtime.size(), std::nullopt));

  // The folder, which may hold a part of it already.
  const std::string stem = std::filesystem::path(line.config).stem().string();
  const std::string& out = experiments.front().base.study.out;
  const std::string path = out.empty() ? "runs/study-" + stem : out;
  StudyFolder folder(path, plan);
  create(runtime, folder, text,
         study_json(runtime, plan, data, line, stem, placement.device.str(),
                    runtime.world()->gather_text(runtime.host())));
  log_info("results  " + folder.path());

  // The trials.
  const double start_s = unix_time();
  const RunnerResult result = run_trials(runtime, comm, placement.device, plan, data, folder);
  const double seconds = unix_time() - start_s;
  at::Tensor sums = at::tensor({static_cast<double>(result.ran), result.busy_s}, at::kDouble);
  runtime.world()->all_reduce(sums);
  agree(*runtime.world(), [&] {
    if (runtime.rank() != 0) return;
    folder.write_ledger();
    summarise(plan, folder, result, static_cast<int64_t>(sums[0].item<double>()),
              sums[1].item<double>() / (seconds * runtime.size()));
  });
  if (result.stopped) {
    throw UsageError(concat("stopped on request with trials left; the same command goes on with ",
                            folder.path()),
                     ExitCode::kStopped);
  }
}

}  // namespace syncbn
