#include "comm/lone_tasks.hpp"

#include <cstdlib>

#include "base/error.hpp"

namespace syncbn {
namespace {

int whole(const char* text, int otherwise) {
  return text == nullptr ? otherwise : std::atoi(text);
}

// Slurm's numbers of steps that no srun has started: batch scripts, interactive shells.
constexpr unsigned long kFirstSpecialStep = 0xfffffff0;

}  // namespace

std::optional<Launch> launch_of(const Variables& variables) {
  // mpirun in a job of Slurm starts its helpers by srun, and ranks inherit srun's variables. So
  // what a launcher of MPI says comes first.
  if (const char* size = variables("OMPI_COMM_WORLD_SIZE")) {
    return Launch{"Open MPI's mpirun", whole(size, 1), whole(variables("OMPI_COMM_WORLD_RANK"), 0)};
  }
  if (const char* size = variables("PMI_SIZE")) {
    return Launch{"a launcher that speaks PMI", whole(size, 1), whole(variables("PMI_RANK"), 0)};
  }
  const char* step = variables("SLURM_STEP_ID");
  if (step == nullptr || std::strtoul(step, nullptr, 10) >= kFirstSpecialStep) return std::nullopt;
  const char* tasks = variables("SLURM_STEP_NUM_TASKS");
  if (tasks == nullptr) tasks = variables("SLURM_NTASKS");
  return Launch{"Slurm", whole(tasks, 1), whole(variables("SLURM_PROCID"), 0)};
}

void refuse_lone_tasks(int world_size, const Variables& variables) {
  const auto launch = launch_of(variables);
  if (world_size > 1 || !launch || launch->tasks <= 1) return;
  if (launch->task != 0) throw UsageError("");
  throw UsageError(concat(
      launch->launcher, " started ", launch->tasks,
      " tasks, and MPI sees a job of one rank in each: ",
      "the launcher and this MPI do not speak the same protocol, and every task would do all of "
      "the work. Start the program with the mpirun of this MPI, or with srun --mpi=pmix if srun "
      "--mpi=list names it; tasks that shall work alone each with mpirun -n 1."));
}

void refuse_lone_tasks(int world_size) {
  refuse_lone_tasks(world_size, [](const char* name) { return std::getenv(name); });
}

}  // namespace syncbn
