#include "train/self_check.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <sstream>

#include "base/clock.hpp"
#include "base/digest.hpp"
#include "base/log.hpp"
#include "comm/arithmetic.hpp"
#include "comm/watchdog.hpp"
#include "train/trainer.hpp"

namespace syncbn {
namespace {

constexpr int64_t kSteps = 60;       // of each grouping: past any first-step effect
constexpr int kPairs = 15;           // of blocks that are timed by turns
constexpr int64_t kBlockSteps = 20;  // of one block
constexpr size_t kDigits = 16;       // of a digest that are shown

void take_steps(Trainer& trainer, int64_t count, Watchdog& watchdog) {
  for (int64_t i = 0; i < count; ++i) {
    watchdog.beat("self-check", trainer.step());
    const int64_t k = trainer.step() % trainer.steps_per_epoch();
    if (k == 0) trainer.start_epoch(trainer.step() / trainer.steps_per_epoch());
    trainer.train_step(k);
  }
}

// Seconds of a block of steps on all ranks.
double time_block(Trainer& trainer, Communicator& comm, at::Device device, Watchdog& watchdog) {
  comm.wait(device);
  comm.barrier({"timing of a block"});
  const auto start = Clock::now();
  take_steps(trainer, kBlockSteps, watchdog);
  comm.wait(device);
  comm.barrier({"timing of a block"});
  return seconds_since(start);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Options synthetic(Options options, int ranks) {
  options.data.name = "synthetic";
  options.data.validation = "test";
  options.run.keep_best = false;  // nothing is kept
  options.data.limit = 0;         // all of them: a global batch may be as large
  // B is the same for every grouping.
  options.train.batch = global_batch(options.train, ranks);
  options.train.batch_per_rank = 0;
  options.run.reduce = "canonical";
  return options;
}

}  // namespace

void self_check(Runtime& runtime, const Options& asked) {
  runtime.watchdog().set_limit(asked.run.timeout, Watched::kEverything);
  runtime.watchdog().beat("self-check");
  const Options options = synthetic(asked, runtime.size());
  validate_for_ranks(options, runtime.size());
  const Placement placement = choose_placement(runtime, options.run.device, options.run.backend);
  const ThreadPlan threads = plan_threads(runtime, static_cast<int>(options.run.threads));
  const CommPtr all = make_communicator(runtime, placement, options.run.timeout);
  const Dataset data = load_dataset(runtime, options);
  log_info(concat("self-check: model.hidden = ", options.model.hidden,
                  ", norm.kind = ", options.norm.kind, ", norm.batch = ", options.norm.batch, ", ",
                  options.train.optimizer, ", B = ", options.train.batch, " in ",
                  options.run.shards, " shards, ", options.run.dtype, " on ",
                  placement.device.str(), ", ", threads.threads, " threads per rank; ", kSteps,
                  " steps on synthetic samples"));
  log_info("  arithmetic   " + arithmetic());

  // The same shards in other hands.
  const int ranks = runtime.size(), rank = runtime.rank();
  std::vector<std::string> digests, names;
  const auto check = [&](const std::string& name, const CommPtr& comm) {
    Trainer trainer(comm, options, data, placement.device);
    take_steps(trainer, kSteps, runtime.watchdog());
    for (const std::string& digest : runtime.world()->gather_text(
             sha256({trainer.replica().digests()}), {"digests of the models"})) {
      digests.push_back(digest);
      names.push_back(name);
    }
    log_info(concat("  ", std::left, std::setw(24), name, digests.back().substr(0, kDigits)));
  };
  check(concat(ranks, ranks == 1 ? " rank" : " ranks together"), all);
  if (ranks > 2) {
    check("halves of them", all->split(2 * rank / ranks, rank, {"halves of the ranks"}));
  }
  if (ranks > 1) check("each rank alone", all->split(rank, 0, {"each rank alone"}));

  // What it costs.
  Options quick = options;
  quick.run.reduce = "fast";
  Trainer canonical(all, options, data, placement.device), fast(all, quick, data, placement.device);
  const auto time = [&](Trainer& trainer) {
    return time_block(trainer, *all, placement.device, runtime.watchdog());
  };
  std::vector<double> ratios, seconds;
  for (int pair = 0; pair <= kPairs; ++pair) {
    const bool first = pair % 2 == 0;  // who goes first: by turns
    const double a = time(first ? canonical : fast);
    const double b = time(first ? fast : canonical);
    if (pair == 0) continue;  // buffers are made
    ratios.push_back(first ? a / b : b / a);
    seconds.push_back((first ? a : b) / static_cast<double>(kBlockSteps));
  }
  constexpr double kMicro = 1e6;
  log_info(concat("  cost         ", std::llround(kMicro * median(seconds)), " us a step, ",
                  std::setprecision(3), median(ratios),
                  " times that of run.reduce = fast (median of ", kPairs, " pairs)"));

  for (size_t i = 0; i < digests.size(); ++i) {
    if (digests[i] == digests[0]) continue;
    throw UsageError(
        concat("self-check: '", names[i], "' and '", names[0],
               "' differ, so canonical sums do not have the same bits on any number of "
               "ranks here; results are equal but for rounding. Please report the "
               "lines above."),
        ExitCode::kInvariant);
  }
  log_info(ranks == 1
               ? "  here         one rank only: run with mpirun -n 2 or more to compare groupings"
               : "  here         canonical holds: the same bits for every grouping of the shards");
}

}  // namespace syncbn
