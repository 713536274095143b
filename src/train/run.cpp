#include "train/run.hpp"

#include <chrono>

#include "base/log.hpp"
#include "comm/watchdog.hpp"
#include "train/description.hpp"
#include "train/measurements.hpp"
#include "train/run_folder.hpp"
#include "train/safetensors.hpp"
#include "train/trainer.hpp"

namespace syncbn {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string progress(const Trainer& trainer, Clock::time_point start) {
  if (trainer.step() == 0) return "starting";
  const double seconds = seconds_since(start);
  const auto done = static_cast<double>(trainer.step());
  const double left = seconds / done * (static_cast<double>(trainer.steps_in_all()) - done);
  return concat("step ", trainer.step(), "/", trainer.steps_in_all(), "  ",
                static_cast<int64_t>(done * static_cast<double>(trainer.batch()) / seconds),
                " samples/s  ", format_duration(left), " left");
}

// Trains and evaluates one epoch. `before`: the row of the epoch before. After the last one the
// model keeps the statistics that the evaluation used.
MetricsRow run_epoch(Trainer& trainer, const MetricsRow& before, const Setting& setting) {
  const auto start = Clock::now();
  const Score trained = trainer.train_epoch(before.epoch);
  const double seconds = seconds_since(start);
  const bool last = trainer.step() == trainer.steps_in_all();
  const Score validated = trainer.evaluate(setting.data.validation, /*keep_statistics=*/last);
  trainer.replica().check_equal();
  return measure(before, trainer, trained, validated, seconds, *setting.runtime.world(),
                 setting.placement.device);
}

}  // namespace

MetricsRow run_training(Runtime& runtime, const Options& options, const CommandLine& line) {
  // Where to compute, and on what.
  Watchdog watchdog(concat("rank ", runtime.rank(), "/", runtime.size(), " ", runtime.host()),
                    options.run.timeout);
  validate_for_ranks(options, runtime.size());
  const Placement placement = choose_placement(runtime, options.run.device, options.run.backend);
  const ThreadPlan threads = plan_threads(runtime, static_cast<int>(options.run.threads));
  const CommPtr comm = make_communicator(runtime, placement, options.run.timeout);
  watchdog.beat("loading the data", 0);
  const Dataset data = load_dataset(runtime, options);
  watchdog.beat("making the model", 0);
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
  folder.write_metadata(metadata_json(setting, "RUNNING"));
  log_info("results  " + folder.path());
  if (trainer.steps_in_all() > 0) log_info(console_header());

  // The epochs.
  const auto start = Clock::now();
  ProgressLine progress_line;
  trainer.on_progress([&](const char* phase, int64_t step) {
    watchdog.beat(phase, step);
    if (progress_line.active()) progress_line.update(progress(trainer, start));
  });
  MetricsRow row;
  try {
    while (trainer.step() < trainer.steps_in_all()) {
      row = run_epoch(trainer, row, setting);
      row.seconds = seconds_since(start);
      folder.append(row);
      progress_line.clear();
      log_info(console_row(row));
    }
  } catch (const DivergedError&) {  // on every rank alike
    folder.write_metadata(metadata_json(setting, "DIVERGED"));
    throw;
  }

  // What is kept.
  folder.write_model(to_safetensors(trainer.replica().state_dict(), {{"format", "pt"}}));
  folder.write_metadata(metadata_json(setting, "COMPLETE"));
  log_info("done     " + folder.path() + "/model.safetensors");
  return row;
}

}  // namespace syncbn
