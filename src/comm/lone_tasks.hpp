// Internal to comm/*.cpp and its tests: tasks that were started together and that MPI, which does
// not speak its launcher's protocol, sees as jobs of one rank each. Each would do all of the work.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace syncbn {

/// What the environment says of the launch.
struct Launch {
  std::string launcher;  ///< "Slurm"
  int tasks = 1;
  int task = 0;
};

/// The value of an environment variable, or null.
using Variables = std::function<const char*(const char* name)>;

/// Nothing if no launcher started this process. A batch script of Slurm is no task, whatever size
/// its allocation has.
std::optional<Launch> launch_of(const Variables& variables);

/// Throws UsageError(kUsage) if MPI's world has one rank, `world_size`, and the launcher started
/// more tasks. Its message is empty but for the first task's.
void refuse_lone_tasks(int world_size);
void refuse_lone_tasks(int world_size, const Variables& variables);

}  // namespace syncbn
