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

// One epoch; a run that diverges says so in its metadata before it ends.
Score train_or_mark(Trainer& trainer, int64_t epoch, RunFolder& folder, const Setting& setting) {
  try {
    return trainer.train_epoch(epoch);
  } catch (const UsageError&) {  // on every rank alike
    folder.write_metadata(metadata_json(setting, "DIVERGED"));
    throw;
  }
}

}  // namespace

MetricsRow run_training(Runtime& runtime, const Options& options, const CommandLine& line,
                        const std::string& command) {
  // Where to compute, and on what.
  validate_for_ranks(options, runtime.size());
  const Placement placement = choose_placement(runtime, options.run.device, options.run.backend);
  const ThreadPlan threads = plan_threads(runtime, static_cast<int>(options.run.threads));
  const CommPtr comm = make_communicator(runtime, placement);
  const Dataset data = load_dataset(runtime, options);

  // The model, its copies, and what watches them.
  Watchdog watchdog(concat("rank ", runtime.rank(), "/", runtime.size(), " ", runtime.host()),
                    options.run.timeout);
  ProgressLine progress_line;
  Trainer trainer(comm, options, data, placement.device);
  const Setting setting{options, runtime, placement, threads, data, trainer, command};
  log_info(describe(setting));
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
  trainer.on_progress([&](const char* phase, int64_t step) {
    watchdog.beat(phase, step);
    if (progress_line.active()) progress_line.update(progress(trainer, start));
  });
  MetricsRow row;
  for (int64_t epoch = 0; trainer.step() < trainer.steps_in_all(); ++epoch) {
    const auto epoch_start = Clock::now();
    const Score trained = train_or_mark(trainer, epoch, folder, setting);
    const double epoch_seconds = seconds_since(epoch_start);
    const Score validated = trainer.evaluate(data.validation);
    trainer.replica().check_equal();
    row = measure(row, trainer, trained, validated, epoch_seconds, *runtime.world(),
                  placement.device);
    row.seconds = seconds_since(start);
    folder.append(row);
    progress_line.clear();
    log_info(console_row(row));
  }

  // What is kept: the weights, with the statistics that the evaluations used.
  if (options.norm.eval == "recomputed" && trainer.step() > 0) trainer.recompute_statistics();
  folder.write_model(to_safetensors(trainer.replica().state_dict(), {{"format", "pt"}}));
  folder.write_metadata(metadata_json(setting, "COMPLETE"));
  log_info("done     " + folder.path() + "/model.safetensors");
  return row;
}

}  // namespace syncbn
