// The cost of a training step, for tests/bench/compare.py, which starts this program on several
// ranks.
//
//   step_bench ROWS CONTROL      ROWS: samples per rank
//
// Makes one trainer for each contender in this one process (784-128-64-10, Adam, float32, one
// thread a rank) and then does what the file CONTROL.<rank> says, line by line, the same lines for
// all ranks:
//
//   none|local|global|fast|full STEPS  takes so many steps; rank 0 prints one line of seconds:
//                                 elapsed data forward backward norm_comm gradient_comm optimizer
//
// The first three are kinds of normalization, with sums as they are by default (run.reduce =
// canonical); fast is global with run.reduce = fast, full is global with run.check = full.
//
// until the file ends. It is a named pipe when blocks alternate with another program's: a rank that
// reads it sleeps, while one that waits in MPI would take a core from the other program.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <utility>

#include "comm/contract.hpp"
#include "comm/runtime.hpp"
#include "data/dataset.hpp"
#include "train/trainer.hpp"

namespace syncbn {
namespace {

class Contender {
 public:
  Contender(const CommPtr& comm, Options options, const Dataset& data, const std::string& name)
      : comm_(comm),
        trainer_(comm, options_of(name, std::move(options)), data, at::kCPU),
        full_(name == "full") {
    trainer_.train_epoch(0);  // the one step of train.max_steps: the epoch has begun
  }

  void run(int64_t steps) {
    trainer_.take_times();
    comm_->check_collectives({full_, CheckRule{}.every});
    comm_->barrier();
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < steps; ++i) trainer_.train_step(i % trainer_.steps_per_epoch());
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    const StepTimes t = trainer_.take_times();
    if (comm_->rank() != 0) return;
    std::printf("%.9f %.9f %.9f %.9f %.9f %.9f %.9f\n", elapsed.count(), t.data, t.forward,
                t.backward, t.norm_comm, t.gradient_comm, t.optimizer);
    std::fflush(stdout);
  }

 private:
  static Options options_of(const std::string& name, Options options) {
    options.norm.kind = name == "none" ? "none" : "batch";
    options.norm.batch = name == "local" ? "local" : "global";
    options.run.reduce = name == "fast" ? "fast" : "canonical";
    return options;
  }

  CommPtr comm_;
  Trainer trainer_;
  bool full_;
};

int bench(Runtime& runtime, int argc, char** argv) {
  if (argc != 3) throw UsageError("usage: step_bench ROWS CONTROL");
  Options options;
  options.data.name = "synthetic";
  options.train.batch_per_rank = std::atoll(argv[1]);
  options.train.drop_last = true;
  options.train.max_steps = 1;
  options.train.lr = 0;  // else the few batches are learned, and denormal gradients slow Adam down
  plan_threads(runtime, 1);
  const Dataset data = load_dataset(runtime, options);
  const CommPtr comm =
      make_communicator(runtime, choose_placement(runtime, "cpu", "mpi"), /*limit_s=*/0);

  std::map<std::string, Contender> contenders;
  for (const char* name : {"none", "local", "global", "fast", "full"}) {
    contenders.try_emplace(name, comm, options, data, name);
  }
  std::ifstream control(concat(argv[2], ".", runtime.rank()));
  std::string name;
  int64_t steps = 0;
  while (control >> name >> steps) contenders.at(name).run(steps);
  return 0;
}

}  // namespace
}  // namespace syncbn

int main(int argc, char** argv) {
  return syncbn::guarded_main(
      argc, argv, [&](syncbn::Runtime& runtime) { return syncbn::bench(runtime, argc, argv); });
}
