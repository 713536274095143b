#include "study/run_study.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iomanip>
#include <map>
#include <nlohmann/json.hpp>

#include "base/digest.hpp"
#include "base/log.hpp"
#include "comm/arithmetic.hpp"
#include "comm/watchdog.hpp"
#include "study/plan_text.hpp"
#include "study/runner.hpp"
#include "train/description.hpp"
#include "train/program.hpp"

namespace syncbn {
namespace {

using Json = nlohmann::ordered_json;

Json experiment_json(const Plan& plan, const Experiment& experiment) {
  const StudyOptions& study = experiment.base.study;
  Json axes = Json::array(), cells = Json::array(), dropped = Json::array(), tune = nullptr;
  for (const Axis& axis : experiment.axes) {
    axes.push_back({{"keys", axis.keys}, {"values", axis.values}});
  }
  for (const Cell& cell : plan.cells) {
    if (cell.experiment != experiment.name) continue;
    cells.push_back({{"cell", cell.name},
                     {"trials", planned_trials(cell.options.study)},
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

// The files' digests of each data set; of several that have one name the later ones are numbered.
// Where inputs are scaled by a mean and a deviation of the set's own, these are a set's like files:
// earlier versions took MNIST's for all.
Json sets_json(const Plan& plan, DataSets& data) {
  std::map<std::string, std::vector<Json>> by_name;
  for (const Dataset* set : data.all()) {
    auto& known = by_name[set->name];
    const Json digests = set->digests;
    if (std::find(known.begin(), known.end(), digests) == known.end()) known.push_back(digests);
  }
  Json sets = Json::object();
  for (const auto& [name, all] : by_name) {
    for (size_t i = 0; i < all.size(); ++i) sets[i == 0 ? name : concat(name, ' ', i + 1)] = all[i];
  }
  for (const Cell& cell : plan.cells) {
    const Dataset& set = data.of(cell.options.train);
    if (cell.options.train.data.scale != "standard" || set.name == "mnist") continue;
    const std::string scale =
        concat(write_value(set.standard.shift), " and ", write_value(set.standard.divisor));
    sets[set.name + " scaled by its own mean and deviation"][scale] = "";
  }
  return sets;
}

// The folders that the data sets' files came from.
Json dirs_json(const DataSets& data) {
  Json dirs = Json::object();
  for (const Dataset* set : data.all()) {
    if (!set->dir.empty()) dirs[set->dir] = set->name;
  }
  return dirs;
}

Json study_json(Runtime& runtime, const Plan& plan, DataSets& data, const CommandLine& line,
                const std::string& name, const std::string& device,
                const std::vector<std::string>& hosts) {
  const Json sets = sets_json(plan, data);
  Json experiments = Json::array();
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
          {"data_dirs", dirs_json(data)},
          // Results of other data or another kind of device do not belong together.
          {"fingerprint", sha256({plan.fingerprint(), sets.dump(), device.substr(0, 4)})},
          {"experiments", experiments}};
}

// Every rank must see the folder that rank 0 has made, since lanes share out trials through it.
void create(Runtime& runtime, StudyFolder& folder, const std::string& text, const Json& json) {
  agree(*runtime.world(), {"making the study's folder"}, [&] {
    if (runtime.rank() == 0) folder.create(text, json);
  });
  agree(*runtime.world(), {"seeing the study's folder"}, [&] {
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

// Other options on another rank would be another plan.
std::string settings_text(const CommandLine& line) {
  std::string text;
  for (const auto& [key, value] : line.settings) text += concat("--", key, " ", value, "\n");
  return text;
}

}  // namespace

ProgramOptions study_program() {
  ProgramOptions program{
      "syncbn-study",
      "configs/studies/notebook_claims_smoke.ini",
      {"dry-run", "help", "version"},
      help_of(StudyOptions()),
      {{"resume", "a study goes on by itself when the same command is given again"},
       {"overwrite", "name another folder with --study.out, or remove this one"},
       {"print-config", "the study's folder keeps its file as study.ini"},
       {"self-check", "it is syncbn-train's"}},
      study_grammar()};
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
  runtime.world()->check_collectives(check_rule(base.run));
  agree_same(*runtime.world(), arithmetic(), "the arithmetic that a study needs alike");
  const Placement placement = choose_placement(runtime, base.run.device, base.run.backend);
  const ThreadPlan threads = plan_threads(runtime, static_cast<int>(base.run.threads));
  for (const std::string& warning : threads.warnings) log_warning(warning);
  const CommPtr comm = make_communicator(runtime, placement, base.run.timeout);
  runtime.watchdog().beat("loading the data");
  DataSets data(runtime);
  const Plan plan = make_plan(experiments, runtime.size(), data);

  // The folder, which may hold a part of it already.
  const std::string stem = std::filesystem::path(line.config).stem().string();
  const std::string& out = experiments.front().base.study.out;
  const std::string path = out.empty() ? "runs/study-" + stem : out;
  StudyFolder folder(path, plan);
  const Json description = study_json(runtime, plan, data, line, stem, placement.device.str(),
                                      runtime.world()->gather_text(runtime.host(), {"hosts"}));
  PlanText plan_text;
  agree(*runtime.world(), {"looking at the study's folder"}, [&] {
    if (runtime.rank() != 0) return;
    folder.check(text, description);
    plan_text = PlanText(plan, data, folder);
  });
  if (line.dry_run) {
    const Calibration speed = calibrate(runtime, comm, placement.device, plan, data);
    log_info(plan_text.table(speed) + plan_text.cells() +
             "dry run: nothing was trained or written");
    return;
  }
  log_info(plan_text.table());
  create(runtime, folder, text, description);
  log_info("results  " + folder.path());

  // The trials.
  const double start_s = unix_time();
  const RunnerResult result = run_trials(runtime, comm, placement.device, plan, data, folder);
  const double seconds = unix_time() - start_s;
  at::Tensor sums = at::tensor({static_cast<double>(result.ran), result.busy_s}, at::kDouble);
  runtime.world()->all_reduce(sums, ReduceOp::kSum, {"trials that ranks have run"});
  agree(*runtime.world(), {"closing the study"}, [&] {
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
