#include "train/run.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "comm/arithmetic.hpp"
#include "comm/watchdog.hpp"
#include "train/checkpointer.hpp"
#include "train/description.hpp"
#include "train/measurements.hpp"
#include "train/run_folder.hpp"
#include "train/safetensors.hpp"
#include "train/trainer.hpp"
#include "train/weights.hpp"

namespace syncbn {
namespace {

std::string progress(const Trainer& trainer, int64_t first_step, Clock::time_point start) {
  if (trainer.step() == first_step) return "starting";
  const double seconds = seconds_since(start);
  const auto done = static_cast<double>(trainer.step() - first_step);
  const double left = seconds / done * static_cast<double>(trainer.steps_in_all() - trainer.step());
  return concat("step ", trainer.step(), "/", trainer.steps_in_all(), "  ",
                static_cast<int64_t>(done * static_cast<double>(trainer.batch()) / seconds),
                " samples/s  ", format_duration(left), " left");
}

// Collective. Puts the scores of the test set into the row: those that it has if that was validated
// on, else, after the last step, those of the one look at it.
void add_test(MetricsRow& row, Trainer& trainer, const Setting& setting) {
  if (measured_on(setting.options) == "test") {
    row.test_loss = row.val_loss;
    row.test_accuracy = row.val_accuracy;
  } else if (trainer.step() == trainer.steps_in_all()) {
    const Score tested = trainer.evaluate(setting.data.test, /*keep_statistics=*/true);
    row.test_loss = tested.loss();
    row.test_accuracy = tested.accuracy();
  }
  row.test_error = 1 - row.test_accuracy;
}

// Trains and evaluates the epoch after `before`'s; nothing if it was stopped. After the last one
// the model keeps the statistics that the evaluation used.
std::optional<MetricsRow> run_epoch(Trainer& trainer, const MetricsRow& before,
                                    const Setting& setting, Checkpointer& checkpointer) {
  const int64_t first = trainer.step();
  const auto start = Clock::now();
  const std::optional<Score> trained = trainer.train_epoch(before.epoch);
  if (!trained) return std::nullopt;
  // Without what was trained before the run was stopped and resumed, which are whole batches.
  const int64_t before_us = first - before.epoch * trainer.steps_per_epoch();
  const int64_t samples = std::max<int64_t>(0, trained->samples - before_us * trainer.batch());
  const double rate = static_cast<double>(samples) / seconds_since(start);
  const bool last = trainer.step() == trainer.steps_in_all();
  const auto running = trainer.running_statistics();
  const Score validated = trainer.evaluate(setting.data.validation, /*keep_statistics=*/true);
  trainer.check_replicas();
  MetricsRow row = measure(before, trainer, *trained, validated, rate, *setting.runtime.world(),
                           setting.placement.device);
  checkpointer.keep_if_best(row);
  if (!last) trainer.set_running_statistics(running);
  add_test(row, trainer, setting);
  return row;
}

// Collective. What the weights that a run begins with are worth, where it takes no steps.
MetricsRow evaluate_only(Trainer& trainer, const Setting& setting, Clock::time_point start) {
  const double none = std::numeric_limits<double>::quiet_NaN();
  MetricsRow row;
  const Score validated = trainer.evaluate(setting.data.validation, /*keep_statistics=*/true);
  row.train_loss = row.train_accuracy = row.lr = row.samples_per_s = none;
  row.val_loss = validated.loss();
  row.val_accuracy = validated.accuracy();
  row.val_error = 1 - row.val_accuracy;
  add_test(row, trainer, setting);
  row.seconds = seconds_since(start);
  return row;
}

std::string test_line(const MetricsRow& row, const Setting& setting) {
  constexpr int kPercent = 100;
  std::ostringstream line;
  line << std::fixed << "test     loss " << std::setprecision(5) << row.test_loss << ", accuracy "
       << std::setprecision(2) << kPercent * row.test_accuracy << "% of "
       << setting.data.test.size() << " samples, after step " << setting.trainer.step();
  return line.str();
}

// Ranks that compute differently cannot add up to the same bits.
void check_arithmetic(Runtime& runtime, const Options& options) {
  if (options.run.reduce == "canonical") {
    agree_same(*runtime.world(), arithmetic(), "the arithmetic that canonical sums need alike");
  }
}

// The run's own record names the folder that its data came from, also where that was found by
// another name than data.dir.
Options with_data_dir(Options options, const Dataset& data) {
  if (is_storable_path(data.dir)) options.data.dir = data.dir;
  return options;
}

bool only_evaluates(const Trainer& trainer, const Options& options) {
  return trainer.steps_in_all() == 0 && !options.model.weights.empty();
}

// The start that the folder's metadata tell, which versions before this one did not write.
std::string first_start(const Runtime& runtime, const RunFolder& folder) {
  if (runtime.rank() != 0) return now_utc();  // rank 0 alone reads and writes the folder
  const auto metadata = folder.metadata();
  const auto started = metadata.find("started");
  return started != metadata.end() && started->is_string() ? started->get<std::string>()
                                                           : now_utc();
}

void write_metadata(RunFolder& folder, Setting& setting, const Checkpointer& checkpointer,
                    const char* status) {
  setting.best = checkpointer.best();
  folder.write_metadata(metadata_json(setting, status));
}

// Collective. The epochs that are left after `position`, each with its row in the folder; returns
// the last one's.
MetricsRow run_epochs(Trainer& trainer, Setting& setting, RunFolder& folder,
                      Checkpointer& checkpointer, const Checkpointer::Position& position,
                      Watchdog& watchdog) {
  if (trainer.step() < trainer.steps_in_all() || only_evaluates(trainer, setting.options)) {
    log_info(console_header(measured_on(setting.options) == "test" ? "test" : "val"));
  }
  MetricsRow row = position.row;
  const auto start = Clock::now();
  ProgressLine progress_line;
  trainer.on_progress([&, first = trainer.step()](const char* phase, int64_t step) {
    watchdog.beat(phase, step);
    if (progress_line.active()) progress_line.update(progress(trainer, first, start));
  });
  trainer.after_step([&](bool looked) { return checkpointer.after_step(looked, row); });
  const auto keep_row = [&] {
    folder.append(row);
    log_info(console_row(row));
  };
  try {
    const Watchdog::HeedsStop heeds(watchdog);
    if (only_evaluates(trainer, setting.options)) {
      row = evaluate_only(trainer, setting, start);
      keep_row();
    }
    while (row.epoch < trainer.epochs_in_all()) {
      const auto next = run_epoch(trainer, row, setting, checkpointer);
      progress_line.clear();
      if (!next) {
        write_metadata(folder, setting, checkpointer, "STOPPED");
        throw UsageError(concat("stopped on request after step ", trainer.step(),
                                "; go on with --resume --run.out ", folder.path()),
                         ExitCode::kStopped);
      }
      row = *next;
      row.seconds = position.row.seconds + seconds_since(start);
      keep_row();
    }
  } catch (const DivergedError&) {  // on every rank alike
    write_metadata(folder, setting, checkpointer, "DIVERGED");
    throw;
  }
  trainer.on_progress(nullptr);  // what they hold ends here
  trainer.after_step(nullptr);
  return row;
}

}  // namespace

MetricsRow run_training(Runtime& runtime, const Options& asked, const CommandLine& line) {
  // Where to compute, and on what.
  Watchdog& watchdog = runtime.watchdog();
  watchdog.set_limit(asked.run.timeout, Watched::kEverything);
  watchdog.beat("choosing where to compute");
  validate_for_ranks(asked, runtime.size());
  check_arithmetic(runtime, asked);
  const Placement placement = choose_placement(runtime, asked.run.device, asked.run.backend);
  const ThreadPlan threads = plan_threads(runtime, static_cast<int>(asked.run.threads));
  const CommPtr comm = make_communicator(runtime, placement, asked.run.timeout);
  watchdog.beat("loading the data");
  const Dataset data = load_dataset(runtime, asked);
  const Options options = with_data_dir(asked, data);
  watchdog.beat("making the model");
  Trainer trainer(comm, options, data, placement.device);
  Setting setting{options, runtime, placement, threads, data, trainer, line.words};
  log_info(describe(setting));
  for (const std::string& warning : threads.warnings) log_warning(warning);
  const auto begin_with_weights = [&] {
    if (options.model.weights.empty()) return;
    setting.weights_sha256 =
        load_weights(*runtime.world(), options.model.weights, trainer.replica());
  };
  if (!line.resume) begin_with_weights();
  if (line.dry_run) {
    log_info("dry run: all is checked, nothing was trained or written");
    return {};
  }

  // The folder, before the first step, so that nothing is trained that cannot be kept.
  RunFolder folder(runtime, options, line);
  Checkpointer checkpointer(setting, trainer, folder);
  watchdog.beat("resuming");
  const auto position = line.resume ? checkpointer.resume() : Checkpointer::Position{};
  if (position.finished) return {};
  setting.started = position.resumed ? first_start(runtime, folder) : now_utc();
  if (position.resumed) setting.weights_sha256 = position.weights_sha256;
  if (line.resume && !position.resumed) begin_with_weights();
  folder.begin(options, position.metrics);
  write_metadata(folder, setting, checkpointer, "RUNNING");
  log_info("results  " + folder.path());
  const MetricsRow row = run_epochs(trainer, setting, folder, checkpointer, position, watchdog);

  // What is kept.
  watchdog.beat("writing the results");
  if (measured_on(options) != "test" && !std::isnan(row.test_loss)) {
    log_info(test_line(row, setting));
  }
  folder.write_model(to_safetensors(trainer.replica().state_dict(), {{"format", "pt"}}));
  write_metadata(folder, setting, checkpointer, "COMPLETE");
  log_info("done     " + folder.path() + "/model.safetensors");
  return row;
}

}  // namespace syncbn
