// A program that ends in the way it is told to: `runtime_probe WAY [LIMIT]`, LIMIT being that of
// guarded_main. runtime_test runs it under mpiexec and looks at what remains. The rank that goes
// wrong is the last one; in the way "absent" it is stopped before it starts MPI.
#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <thread>

#include "comm/runtime.hpp"
#include "comm/stop.hpp"
#include "comm/watchdog.hpp"

namespace syncbn {
namespace {

constexpr double kWatchdogS = 1.5;

[[noreturn]] void stay() {
  for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
}

/// Three limits of time in which only `beat` tells that the process lives.
void work_slowly(Watchdog& watchdog) {
  for (int step = 0; step < 30; ++step) {
    watchdog.beat("slow work", step);
    std::this_thread::sleep_for(std::chrono::duration<double>(kWatchdogS / 10));
  }
}

/// Silent for two limits of time, but for a pause.
void wait_for_others(Watchdog& watchdog) {
  const Watchdog::Pause pause(watchdog);
  std::this_thread::sleep_for(std::chrono::duration<double>(2 * kWatchdogS));
}

/// Ways in which the program has set no limit of its own.
int probe_a_user(Runtime& runtime, const std::string& way, bool last) {
  if (way == "user_computes") {
    std::this_thread::sleep_for(std::chrono::duration<double>(2 * kWatchdogS));
    return 0;
  }
  if (way == "user_stuck" && last) stay();
  if (way == "user_frozen" && last) std::raise(SIGSTOP);
  at::Tensor t = at::zeros({7}, at::kFloat);
  runtime.world()->all_reduce(t, ReduceOp::kSum, {"gradients"});
  return 0;
}

/// Works on until every rank has heard of the signal that rank 0 sends to their common mpiexec.
int work_until_stopped(Runtime& runtime) {
  for (int step = 0; runtime.rank() == 0 && step < 2; ++step) {
    kill(getppid(), SIGUSR1);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  at::Tensor heard = at::zeros({1}, at::kLong);
  while (heard.item<int64_t>() < runtime.size()) {
    heard.fill_(stop_requested() ? 1 : 0);
    runtime.world()->all_reduce(heard);
  }
  return static_cast<int>(ExitCode::kStopped);
}

int probe(Runtime& runtime, const std::string& way) {
  const bool last = runtime.rank() == runtime.size() - 1;
  runtime.world()->barrier();
  if (runtime.rank() == 0) std::puts("ready");
  std::fflush(stdout);

  if (way == "stopped") return static_cast<int>(ExitCode::kStopped);
  if (way == "signalled") return work_until_stopped(runtime);
  if (way == "usage") throw UsageError("the key is wrong", ExitCode::kConfig);
  if (way == "error" && last) throw Error("the disk is full", ExitCode::kWriteFailed);
  if (way == "runtime_error" && last) throw std::runtime_error("first line\nsecond line");
  if (way == "torch_error" && last) TORCH_CHECK(false, "shapes differ");
  if (way == "agree") {
    agree(*runtime.world(), {"the probe"}, [&] {
      if (last) throw Error("the file is torn", ExitCode::kInputDamaged);
    });
  }
  if (way == "unwind") {  // communicators and shared memory go while the exception passes
    const auto part = runtime.world()->split(0, runtime.rank());
    const auto bytes = runtime.node_shared_bytes(100);
    if (last) throw Error("in the middle");
    part->barrier();
  }
  if (way == "frozen_at_the_end") {
    runtime.watchdog().set_limit(kWatchdogS, Watched::kEverything);
    if (last) std::raise(SIGSTOP);
    return 0;
  }
  if (way == "node") {
    runtime.watchdog().set_limit(kWatchdogS, Watched::kWaits);
    if (last) stay();
    runtime.node_barrier();
  }
  if (way == "terminated" || way == "terminated_and_heeds") {
    std::optional<Watchdog::HeedsStop> heeds;
    if (way == "terminated_and_heeds") heeds.emplace(runtime.watchdog());
    if (last) std::raise(SIGTERM);
    std::this_thread::sleep_for(std::chrono::seconds(1));
    return static_cast<int>(ExitCode::kStopped);
  }
  if (way.rfind("user", 0) == 0) return probe_a_user(runtime, way, last);
  Watchdog& watchdog = runtime.watchdog();
  watchdog.set_limit(way == "off" ? 0 : kWatchdogS, Watched::kEverything);
  if (way == "slow" || way == "off") {
    if (way == "slow") work_slowly(watchdog);
    if (way == "off") std::this_thread::sleep_for(std::chrono::duration<double>(2 * kWatchdogS));
    return 0;
  }
  if (way == "paused" || way == "stuck_after_a_pause") {
    wait_for_others(watchdog);
    if (way == "paused") return 0;
  }
  if (way == "stuck") {
    watchdog.beat("forward", 17);
    if (last) stay();
  }
  if (way == "early" && last) return 0;  // leaves its peers in a collective
  runtime.world()->barrier({"the end of the probe", 2});
  stay();
}

/// Open MPI's word for it: MPI itself is not started yet.
bool launched_last() {
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  const char* size = std::getenv("OMPI_COMM_WORLD_SIZE");
  return rank != nullptr && size != nullptr && std::atoi(rank) + 1 == std::atoi(size);
}

}  // namespace
}  // namespace syncbn

int main(int argc, char** argv) {
  const std::string way = argc >= 2 ? argv[1] : "";
  const double limit = argc >= 3 ? std::atof(argv[2]) : syncbn::kWaitLimitS;
  if (way == "absent" && syncbn::launched_last()) std::raise(SIGSTOP);
  return syncbn::guarded_main(
      argc, argv, [&](syncbn::Runtime& runtime) { return syncbn::probe(runtime, way); }, limit);
}
