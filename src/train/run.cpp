#include "train/run.hpp"

#include <algorithm>

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

// Trains and evaluates the epoch after `before`'s; nothing if it was stopped. After the last one
// the model keeps the statistics that the evaluation used.
std::optional<MetricsRow> run_epoch(Trainer& trainer, const MetricsRow& before,
                                    const Setting& setting) {
  const int64_t first = trainer.step();
  const auto start = Clock::now();
  const std::optional<Score> trained = trainer.train_epoch(before.epoch);
  if (!trained) return std::nullopt;
  // Without what was trained before the run was stopped and resumed, which are whole batches.
  const int64_t before_us = first - before.epoch * trainer.steps_per_epoch();
  const int64_t samples = std::max<int64_t>(0, trained->samples - before_us * trainer.batch());
  const double rate = static_cast<double>(samples) / seconds_since(start);
  const bool last = trainer.step() == trainer.steps_in_all();
  const Score validated = trainer.evaluate(setting.data.validation, /*keep_statistics=*/last);
  trainer.replica().check_equal();
  return measure(before, trainer, *trained, validated, rate, *setting.runtime.world(),
                 setting.placement.device);
}

// Ranks that compute differently cannot add up to the same bits.
void check_arithmetic(Runtime& runtime, const Options& options) {
  if (options.run.reduce == "canonical") {
    agree_same(*runtime.world(), arithmetic(), "the arithmetic that canonical sums need alike");
  }
}

}  // namespace

MetricsRow run_training(Runtime& runtime, const Options& options, const CommandLine& line) {
  // Where to compute, and on what.
  Watchdog& watchdog = runtime.watchdog();
  watchdog.set_limit(options.run.timeout, Watched::kEverything);
  watchdog.beat("choosing where to compute");
  validate_for_ranks(options, runtime.size());
  check_arithmetic(runtime, options);
  const Placement placement = choose_placement(runtime, options.run.device, options.run.backend);
  const ThreadPlan threads = plan_threads(runtime, static_cast<int>(options.run.threads));
  const CommPtr comm = make_communicator(runtime, placement, options.run.timeout);
  watchdog.beat("loading the data");
  const Dataset data = load_dataset(runtime, options);
  watchdog.beat("making the model");
  Trainer trainer(comm, options, data, placement.device);
  const Setting setting{options, runtime, placement, threads, data, trainer, line.words};
  log_info(describe(setting));
  for (const std::string& warning : threads.warnings) log_warning(warning);
  if (line.dry_run) {
    log_info("dry run: all is checked, nothing was trained or written");
    return {};
  }

  // The folder, before the first step, so that nothing is trained that cannot be kept.
  RunFolder folder(runtime, options, line);
  Checkpointer checkpointer(setting, trainer, folder);
  watchdog.beat("resuming");
  const auto position = line.resume ? checkpointer.resume() : Checkpointer::Position{};
  folder.begin(options, position.metrics);
  folder.write_metadata(metadata_json(setting, "RUNNING"));
  log_info("results  " + folder.path());
  if (trainer.step() < trainer.steps_in_all()) log_info(console_header());

  // The epochs.
  MetricsRow row = position.row;
  const auto start = Clock::now();
  ProgressLine progress_line;
  trainer.on_progress([&, first = trainer.step()](const char* phase, int64_t step) {
    watchdog.beat(phase, step);
    if (progress_line.active()) progress_line.update(progress(trainer, first, start));
  });
  trainer.after_step([&](bool looked) { return checkpointer.after_step(looked, row); });
  const auto stopped_as = [&](const char* status) {
    folder.write_metadata(metadata_json(setting, status));
  };
  try {
    const Watchdog::HeedsStop heeds(watchdog);
    while (row.epoch < trainer.epochs_in_all()) {
      const auto next = run_epoch(trainer, row, setting);
      progress_line.clear();
      if (!next) {
        stopped_as("STOPPED");
        throw UsageError(concat("stopped on request after step ", trainer.step(),
                                "; go on with --resume --run.out ", folder.path()),
                         ExitCode::kStopped);
      }
      row = *next;
      row.seconds = position.row.seconds + seconds_since(start);
      folder.append(row);
      log_info(console_row(row));
    }
  } catch (const DivergedError&) {  // on every rank alike
    stopped_as("DIVERGED");
    throw;
  }

  // What is kept.
  watchdog.beat("writing the results");
  folder.write_model(to_safetensors(trainer.replica().state_dict(), {{"format", "pt"}}));
  folder.write_metadata(metadata_json(setting, "COMPLETE"));
  log_info("done     " + folder.path() + "/model.safetensors");
  return row;
}

}  // namespace syncbn
