#include "study/calibration.hpp"

#include <algorithm>
#include <vector>

#include "base/clock.hpp"
#include "comm/watchdog.hpp"
#include "train/trainer.hpp"

namespace syncbn {
namespace {

constexpr double kSeconds = 0.3;  // of each measurement
constexpr size_t kMostSteps = 200;

double seconds_per_step(const CommPtr& alone, at::Device device, const Options& options,
                        const Dataset& data) {
  Trainer trainer(alone, options, data, device);
  trainer.start_epoch(0);
  const int64_t steps = trainer.steps_per_epoch();
  const auto step = [&](int64_t k) {
    const auto start = Clock::now();
    trainer.train_step(k % steps);
    trainer.comm().wait(device);
    return seconds_since(start);
  };
  // The first step makes what later ones use; if it is long, that does not matter.
  const double first = step(0);
  if (first > kSeconds) return first;
  std::vector<double> seconds;  // their median: other programs may take the core at times
  for (double all = 0; all < kSeconds && seconds.size() < kMostSteps; all += seconds.back()) {
    seconds.push_back(step(static_cast<int64_t>(seconds.size()) + 1));
  }
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<int64_t>(seconds.size() / 2),
                   seconds.end());
  return seconds[seconds.size() / 2];
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

Speed calibrate(Runtime& runtime, const CommPtr& comm, at::Device device, const Plan& plan,
                DataSets& data) {
  const CommPtr alone = comm->split(runtime.rank(), 0);
  Speed speed;
  agree(*runtime.world(), [&] {
    if (runtime.rank() != 0 || plan.cells.empty()) return;
    const auto operations = [&](const Cell& cell) {
      StudyOptions nothing;
      nothing.train_samples = nothing.population = 0;
      const Work work = work_of(cell.options.train, nothing, data.of(cell.options.train), 1);
      return work.operations / std::max(1.0, work.steps);
    };
    const auto [least, most] = std::minmax_element(
        plan.cells.begin(), plan.cells.end(),
        [&](const Cell& a, const Cell& b) { return operations(a) < operations(b); });
    const auto measure = [&](const Cell& cell) {
      runtime.watchdog().beat("calibration");
      return seconds_per_step(alone, device, cell.options.train, data.of(cell.options.train));
    };
    const double few = operations(*least), many = operations(*most);
    const double few_s = measure(*least), many_s = few == many ? few_s : measure(*most);
    speed = speed_of(few, few_s, many, many_s);
    speed.measured =
        concat("steps of ", least->folder(), few == many ? "" : " and " + most->folder());
  });
  return speed;
}

}  // namespace syncbn
