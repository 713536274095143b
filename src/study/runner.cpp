#include "study/runner.hpp"

#include <algorithm>
#include <chrono>
#include <set>
#include <string_view>
#include <thread>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "comm/arithmetic.hpp"
#include "comm/stop.hpp"
#include "comm/watchdog.hpp"
#include "study/trial.hpp"
#include "train/description.hpp"

namespace syncbn {
namespace {

using namespace std::chrono_literals;

constexpr auto kLeastWait = 20ms, kMostWait = 500ms;  // between looks for work
constexpr double kBetweenLooks = 5;                   // seconds, at what other lanes have finished
constexpr auto kBetweenLines = 30s;                   // of progress, where no terminal is

// What is left to do, as far as finished trials tell.
class Queue {
 public:
  Queue(const Plan& plan, DataSets& data, StudyFolder& folder) : plan_(plan), folder_(folder) {
    for (const Cell& cell : plan.cells) {
      const StudyOptions& study = cell.options.study;
      const auto ranks = static_cast<int>(study.ranks);
      const Work work = work_of(cell.options.train, study, data.of(cell.options.train), ranks);
      constexpr double kOperationsOfStep = 4e6;  // what a step costs beside its samples: an order
      costs_.push_back((work.operations + kOperationsOfStep * work.steps) * ranks);
      cells_.push_back({});
    }
    for (size_t c = 0; c < cells_.size(); ++c) refresh(c);
  }

  /// The trials that are not known to be finished, the longest first, those that tune before
  /// others.
  std::vector<Trial> open(int ranks) const {
    std::vector<Trial> trials;
    for (size_t c = 0; c < cells_.size(); ++c) {
      if (ranks_of(c) != ranks) continue;
      for (const Trial& trial : cells_[c].trials) {
        if (folder_.known(trial) == nullptr) trials.push_back(trial);
      }
    }
    std::stable_sort(trials.begin(), trials.end(), [&](const Trial& a, const Trial& b) {
      const bool a_tunes = a.stage == Stage::kTune, b_tunes = b.stage == Stage::kTune;
      return a_tunes != b_tunes ? a_tunes : costs_[a.cell] > costs_[b.cell];
    });
    return trials;
  }

  /// Looks whether the trial is finished by now; true: it is, and its cell may have new trials.
  bool look(const Trial& trial) {
    if (folder_.outcome(trial) == nullptr) return false;
    refresh(trial.cell);
    return true;
  }

  bool settled(int ranks) const {
    for (size_t c = 0; c < cells_.size(); ++c) {
      if (ranks_of(c) == ranks && !cells_[c].settled) return false;
    }
    return open(ranks).empty();
  }

  int ranks_of(size_t cell) const {
    return static_cast<int>(plan_.cells[cell].options.study.ranks);
  }

  struct Tally {
    int64_t done = 0, left = 0, diverged = 0;
    double done_cost = 0, left_cost = 0;
  };
  Tally tally() const {
    Tally t;
    for (size_t c = 0; c < cells_.size(); ++c) {
      if (plan_.waits(c)) continue;
      for (const Trial& trial : cells_[c].trials) {
        const Outcome* outcome = folder_.known(trial);
        (outcome != nullptr ? t.done : t.left) += 1;
        (outcome != nullptr ? t.done_cost : t.left_cost) += costs_[c];
        if (outcome != nullptr && outcome->diverged) ++t.diverged;
      }
      if (cells_[c].settled) continue;  // final trials that are yet to be named
      const auto seeds = parse_integers("study.seeds", plan_.cells[c].options.study.seeds);
      t.left += static_cast<int64_t>(seeds.size());
      t.left_cost += costs_[c] * static_cast<double>(seeds.size());
    }
    return t;
  }

 private:
  // Names the cell's trials, of which finished ones may have brought more.
  void refresh(size_t cell) {
    if (cells_[cell].settled) return;
    cells_[cell] =
        trials_of(plan_, cell, [&](const Trial& trial) { return folder_.outcome(trial); });
    if (cells_[cell].tuning) folder_.write_tuning(cell, *cells_[cell].tuning);
    for (const Trial& trial : cells_[cell].trials) folder_.outcome(trial);
  }

  const Plan& plan_;
  StudyFolder& folder_;
  std::vector<double> costs_;  // of one trial of each cell, for their order and the time left
  std::vector<CellTrials> cells_;
};

// The one line that shows how far the study is.
class Progress {
 public:
  Progress(Runtime& runtime, const Queue& queue)
      : rank_(runtime.rank()), queue_(queue), before_(queue.tally().done_cost) {}

  void update() {
    if (rank_ != 0) return;
    const auto now = Clock::now();
    if (line_.active()) {
      if (now - last_ > 100ms) line_.update(text());
    } else if (now - last_ > kBetweenLines) {
      log_info(text());
    } else {
      return;
    }
    last_ = now;
  }
  void clear() { line_.clear(); }
  /// So many trials run side by side from now on.
  void set_lanes(int lanes) { lanes_ = lanes; }

 private:
  std::string text() const {
    const Queue::Tally t = queue_.tally();
    const double done = t.done_cost - before_;
    const std::string left =
        done > 0 ? format_duration(seconds_since(start_) / done * t.left_cost) + " left" : "";
    const int64_t running = std::min<int64_t>(lanes_, t.left);
    return concat("trials: ", t.done, " done, ", running, " running, ", t.left - running,
                  " to come  ", left);
  }

  int rank_;
  const Queue& queue_;
  double before_;
  int lanes_ = 1;
  Clock::time_point start_ = Clock::now(), last_ = start_;
  ProgressLine line_;
};

// The ranks of one width's phase.
struct Phase {
  int ranks = 1;
  Lane lane;  // comm is null on ranks that are left over
};

class Runner {
 public:
  Runner(Runtime& runtime, CommPtr comm, at::Device device, const Plan& plan, DataSets& data,
         StudyFolder& folder)
      : runtime_(runtime),
        comm_(std::move(comm)),
        device_(device),
        plan_(plan),
        data_(data),
        folder_(folder),
        queue_(plan, data, folder),
        progress_(runtime, queue_) {}

  RunnerResult run() {
    std::set<int, std::greater<>> widths;
    for (size_t c = 0; c < plan_.cells.size(); ++c) {
      if (!plan_.waits(c)) widths.insert(queue_.ranks_of(c));
    }
    for (const int ranks : widths) {
      progress_.set_lanes(runtime_.size() / ranks);
      run_phase(make_phase(ranks));
      // Lanes see the end within a look of one another; on a request to stop, each after its step.
      const Watchdog::Pause others_watch_theirs(runtime_.watchdog());
      result_.stopped =
          runtime_.world()->max_on_host(result_.stopped ? 1 : 0, {"requests to stop"}) != 0;
      if (result_.stopped) break;
    }
    progress_.clear();
    for (const int ranks : widths) look_and_see(ranks);
    const Queue::Tally t = queue_.tally();
    result_.done = t.done;
    result_.diverged = t.diverged;
    return result_;
  }

 private:
  Phase make_phase(int ranks) {
    const int lane = runtime_.rank() / ranks;
    const int color = (lane + 1) * ranks <= runtime_.size() ? lane : -1;
    return {ranks,
            {runtime_.world()->split(color, runtime_.rank(), {"lanes of the study"}),
             comm_->split(color, runtime_.rank(), {"lanes of the study"}), device_}};
  }

  void run_phase(const Phase& phase) {
    const Watchdog::HeedsStop heeds(runtime_.watchdog());
    auto wait = kLeastWait;
    for (;;) {
      beat(phase, "looking for a trial", -1);
      if (stop_requested()) result_.stopped = true;
      const Next next = phase.lane.comm == nullptr ? watch(phase) : next_of(phase);
      if (next.end) return;
      if (next.trial) {
        run(phase, *next.trial);
        wait = kLeastWait;
      } else {
        std::this_thread::sleep_for(wait);
        wait =
            std::min<std::common_type_t<decltype(wait), decltype(kMostWait)>>(wait * 2, kMostWait);
      }
      lock_.reset();
    }
  }

  void beat(const Phase& phase, const char* what, int64_t step) {
    runtime_.watchdog().beat(what, step);
    // For the progress line; not while training, whose time is measured.
    const bool looks = runtime_.rank() == 0 && std::string_view(what) != "training";
    if (looks && seconds_since(looked_) > kBetweenLooks) {
      look_and_see(phase.ranks);
      looked_ = Clock::now();
    }
    progress_.update();
  }

  struct Next {
    std::optional<Trial> trial;
    bool end = false;
  };

  // What a rank without a lane does: it waits with the others.
  Next watch(const Phase& phase) {
    return {std::nullopt, result_.stopped || look_and_see(phase.ranks)};
  }

  bool look_and_see(int ranks) {
    for (const Trial& trial : queue_.open(ranks)) queue_.look(trial);
    return queue_.settled(ranks);
  }

  // Collective over the lane: what its first rank finds.
  Next next_of(const Phase& phase) {
    Next next;
    if (phase.lane.host->rank() == 0) {
      if (result_.stopped) {
        next.end = true;
      } else {
        next.trial = claim(phase.ranks);
        next.end = !next.trial && queue_.settled(phase.ranks);
      }
    }
    return send(phase, next);
  }

  std::optional<Trial> claim(int ranks) {
    // A trial that has ended may have made others, so look on until nothing changes.
    for (bool changed = true; changed;) {
      changed = false;
      for (const Trial& trial : queue_.open(ranks)) {
        auto lock = folder_.claim(trial);
        changed |= queue_.look(trial);
        if (lock == nullptr || folder_.known(trial) != nullptr) continue;
        lock_ = std::move(lock);
        return trial;
      }
    }
    return std::nullopt;
  }

  static Next send(const Phase& phase, const Next& found) {
    Trial trial = found.trial.value_or(Trial{});
    const std::string text =
        concat(found.end, " ", found.trial.has_value(), " ", trial.cell, " ",
               static_cast<int>(trial.stage), " ", write_value(trial.lr), " ", trial.seed);
    std::istringstream in(phase.lane.host->gather_text(text, {"the next trial"}).front());
    bool end = false, has_trial = false;
    int stage = 0;
    in >> end >> has_trial >> trial.cell >> stage >> trial.lr >> trial.seed;
    trial.stage = static_cast<Stage>(stage);
    return {has_trial ? std::optional(trial) : std::nullopt, end};
  }

  // Collective over the lane.
  void run(const Phase& phase, const Trial& trial) {
    const bool first = phase.lane.host->rank() == 0;
    const Options options = plan_.options_of(trial);
    const StudyOptions& study = plan_.cells[trial.cell].options.study;
    const double started = unix_time();
    nlohmann::ordered_json head = {
        {"status", "INCOMPLETE"}, {"stage", name_of(trial.stage)}, {"seed", trial.seed},
        {"ranks", phase.ranks},   {"host", runtime_.host()},       {"first_rank", runtime_.rank()},
        {"started", started},     {"versions", versions_},         {"arithmetic", arithmetic()}};
    if (first) folder_.write_metadata(trial, head);
    TrialResult result;
    try {
      result = run_trial(phase.lane, options, study, trial.stage, data_.of(options),
                         [&](const char* what, int64_t step) { beat(phase, what, step); });
    } catch (const UsageError& error) {  // of this lane alone, so it ends the job
      throw Error(concat(plan_.folder_of(trial), ": ", error.what()), error.code());
    }
    if (!result.finished) {
      result_.stopped = true;
      return;
    }
    if (!first) return;
    nlohmann::ordered_json tables = nlohmann::ordered_json::array();
    for (const auto& [name, csv] : result.tables) {
      folder_.write_table(trial, name, csv);
      tables.push_back(name);
    }
    head["tables"] = tables;
    head["finished"] = unix_time();
    head.update(result.metadata);
    folder_.write_metadata(trial, head);
    queue_.look(trial);
    ++result_.ran;
    result_.busy_s += phase.ranks * (head.at("finished").get<double>() - started);
  }

  Runtime& runtime_;
  CommPtr comm_;
  at::Device device_;
  const Plan& plan_;
  DataSets& data_;
  StudyFolder& folder_;
  Queue queue_;
  Progress progress_;
  std::unique_ptr<FileLock> lock_;  // of the trial under way
  Clock::time_point looked_ = Clock::now();
  const nlohmann::ordered_json versions_ = nlohmann::ordered_json::parse(versions_json());
  RunnerResult result_;
};

}  // namespace

RunnerResult run_trials(Runtime& runtime, const CommPtr& comm, at::Device device, const Plan& plan,
                        DataSets& data, StudyFolder& folder) {
  return Runner(runtime, comm, device, plan, data, folder).run();
}

}  // namespace syncbn
