#include "study/calibration.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <memory>
#include <vector>

#include "base/clock.hpp"
#include "comm/watchdog.hpp"
#include "train/trainer.hpp"

namespace syncbn {
namespace {

constexpr double kBlockSeconds = 0.15;
constexpr double kSeconds = 2;  // after which no further block begins
constexpr size_t kMostSteps = 100, kBlocks = 5;

// Seconds that this thread was on a core.
double core_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// The steps of one cell.
class Steps {
 public:
  Steps(const CommPtr& alone, at::Device device, const Options& options, const Dataset& data)
      : device_(device), trainer_(alone, options, data, device) {
    trainer_.start_epoch(0);
    first_s_ = step();  // makes what later ones use
  }

  // At least one step; the first one, if it was long, is not taken again.
  Block block() {
    const double core_start = core_seconds();
    const auto start = Clock::now();
    std::vector<double> seconds;
    if (first_s_ > kBlockSeconds) return {first_s_, 1};
    while (seconds.size() < kMostSteps &&
           (seconds.empty() || seconds_since(start) < kBlockSeconds)) {
      seconds.push_back(step());
    }
    return {median(seconds), (core_seconds() - core_start) / seconds_since(start)};
  }

 private:
  double step() {
    const auto start = Clock::now();
    trainer_.train_step(taken_++ % trainer_.steps_per_epoch());
    trainer_.comm().wait(device_);
    return seconds_since(start);
  }

  at::Device device_;
  Trainer trainer_;
  double first_s_ = 0;
  int64_t taken_ = 0;
};

double operations_of_step(const Cell& cell, DataSets& data) {
  StudyOptions nothing;
  nothing.train_samples = nothing.population = 0;
  const Work work = work_of(cell.options.train, nothing, data.of(cell.options.train), 1);
  return work.operations / std::max(1.0, work.steps);
}

// A block on one thread, if it is quick enough to be worth it.
Block single_thread_block(Steps& steps, int threads) {
  if (threads == 1) return {};
  at::set_num_threads(1);
  const Block block = steps.block();
  at::set_num_threads(threads);
  return block;
}

Calibration measure(const CommPtr& alone, at::Device device, const Cell& least, const Cell& most,
                    DataSets& data, Watchdog& watchdog) {
  const auto steps_of = [&](const Cell& cell) {
    watchdog.beat("calibration", 0);
    return std::make_unique<Steps>(alone, device, cell.options.train, data.of(cell.options.train));
  };
  const double few = operations_of_step(least, data), many = operations_of_step(most, data);
  const auto small = steps_of(least);
  const auto large = few == many ? nullptr : steps_of(most);
  std::vector<Block> small_blocks, large_blocks;
  const auto start = Clock::now();
  while (small_blocks.empty() ||
         (small_blocks.size() < kBlocks && seconds_since(start) < kSeconds)) {
    watchdog.beat("calibration", static_cast<int64_t>(small_blocks.size()) + 1);
    small_blocks.push_back(small->block());
    large_blocks.push_back(large ? large->block() : small_blocks.back());
  }
  const int threads = at::get_num_threads();
  const Block single = single_thread_block(large ? *large : *small, threads);

  const auto extreme = [](const std::vector<Block>& blocks, bool slowest) {
    const auto quicker = [](const Block& a, const Block& b) { return a.step_s < b.step_s; };
    return slowest ? std::max_element(blocks.begin(), blocks.end(), quicker)->step_s
                   : std::min_element(blocks.begin(), blocks.end(), quicker)->step_s;
  };
  const auto speed = [&](bool slowest) {
    return speed_of(few, extreme(small_blocks, slowest), many, extreme(large_blocks, slowest));
  };
  return {speed(false), speed(true),
          concat(small_blocks.size(), small_blocks.size() == 1 ? " block" : " blocks",
                 " of steps of ", least.folder(), large ? " and " + most.folder() : ""),
          doubts_of(large_blocks, threads, single)};
}

}  // namespace

Speed speed_of(double few, double few_s, double many, double many_s) {
  // Of steps that are nearly alike noise would decide how much is fixed.
  constexpr double kApart = 2;
  const double most = many_s / many;
  const double slope = many < kApart * few ? most : (many_s - few_s) / (many - few);
  Speed speed;
  speed.operation_s = std::clamp(slope, 0.0, most);
  speed.step_s = many_s - speed.operation_s * many;
  return speed;
}

std::vector<std::string> doubts_of(const std::vector<Block>& blocks, int threads,
                                   const Block& single) {
  constexpr double kFewCores = 0.8, kSlower = 1.5;
  std::vector<std::string> doubts;
  double share = 1, quickest = blocks.front().step_s;
  for (const Block& block : blocks) {
    share = std::min(share, block.core_share);
    quickest = std::min(quickest, block.step_s);
  }
  if (share < kFewCores) {
    doubts.push_back(
        concat("other programs took the cores while it was measured (a block had one for ",
               std::lround(100 * share),
               " % of its time); on a quiet machine the study "
               "may take far less"));
  }
  if (threads > 1 && single.step_s > 0 && quickest > kSlower * single.step_s) {
    std::ostringstream times;
    times.precision(2);
    times << quickest / single.step_s;
    doubts.push_back(concat("on ", threads, " threads a step took ", times.str(),
                            " times as long as on one: give --run.threads 1, or cores that nobody "
                            "else uses (launch/run_local.sh binds nothing)"));
  }
  if (blocks.size() == 1) {
    doubts.push_back("its steps are so long that few were measured");
  }
  return doubts;
}

Calibration calibrate(Runtime& runtime, const CommPtr& comm, at::Device device, const Plan& plan,
                      DataSets& data) {
  const CommPtr alone = comm->split(runtime.rank(), 0, {"each rank alone"});
  Calibration found;
  agree(*runtime.world(), {"calibrating"}, [&] {
    if (runtime.rank() != 0 || plan.cells.empty()) return;
    const auto [least, most] = std::minmax_element(
        plan.cells.begin(), plan.cells.end(), [&](const Cell& a, const Cell& b) {
          return operations_of_step(a, data) < operations_of_step(b, data);
        });
    found = measure(alone, device, *least, *most, data, runtime.watchdog());
  });
  return found;
}

}  // namespace syncbn
