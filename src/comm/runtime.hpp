// The runtime: MPI's life, this process's place in the job, and the one place that ends a process.
//
// A program is `int main(int argc, char** argv) { return guarded_main(argc, argv, body); }`.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.hpp"

namespace syncbn {

/// Owns MPI (MPI_THREAD_SERIALIZED; MPI_ERRORS_RETURN; only the main thread calls it). One per
/// process. Turns off autograd's per-device threads, so that collectives inside a backward stay on
/// the calling thread and in order.
///
/// If the program has initialised MPI already, then it also finalises it, after this Runtime has
/// gone; comm/own_mpi.hpp says what such a program has to keep to, and makes communicators of its
/// own MPI_Comm without a Runtime.
class Runtime {
 public:
  /// `watchdog` watches MPI's start, every wait in a collective, and MPI_Finalize.
  Runtime(int& argc, char**& argv, std::shared_ptr<Watchdog> watchdog);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  /// All ranks of the job, over MPI, for host tensors and control.
  const CommPtr& world() const { return world_; }
  int rank() const { return world_->rank(); }
  int size() const { return world_->size(); }
  /// Place among the ranks that share this node's memory (MPI_Comm_split_type SHARED).
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }
  const std::string& host() const { return host_; }

  /// The watchdog of this process (comm/watchdog.hpp), to set its limit and to tell it of progress.
  Watchdog& watchdog() { return *watchdog_; }

  /// Collective over the node. Zero-filled bytes, one copy per node, mapped into each of its ranks
  /// (MPI_Win_allocate_shared). Local rank 0 fills them, then all call node_barrier(). The memory
  /// lives as long as the last copy of the pointer, and no longer than this Runtime.
  std::shared_ptr<uint8_t> node_shared_bytes(size_t bytes);
  /// Collective over the node; orders writes to shared bytes before reads of them.
  void node_barrier();

  /// "Open MPI 4.1.4", from MPI_Get_library_version.
  static std::string mpi_version();

 private:
  struct State;  // MPI handles; MPI's header stays inside comm/*.cpp
  std::shared_ptr<Watchdog> watchdog_;
  std::unique_ptr<State> state_;
  CommPtr world_;
  int local_rank_ = 0, local_size_ = 1;
  std::string host_;
};

/// Runs `body` under a Runtime and returns the process's exit code.
/// - `body` returns: MPI is finalised; its value is the exit code (an ExitCode).
/// - It throws UsageError: every rank has thrown it; rank 0 prints one line, all finalise.
/// - It throws otherwise: this rank prints one line, prefixed [rank r/R host], and MPI_Abort with
///   the exception's code ends the job: no peer is left waiting.
/// No rank waits for ever: a watchdog (comm/watchdog.hpp) ends this process with 124, and mpirun
/// the job, when MPI has not started within 120 s (SYNCBN_START_TIMEOUT seconds; 0: no limit), or
/// when this rank has waited in one collective or in MPI_Finalize for `wait_limit` seconds (the
/// environment's SYNCBN_TIMEOUT comes first; 0: no limit). What a rank computes may take as long as
/// it likes. runtime.watchdog().set_limit sets other limits, and has computing watched too.
///
/// Tasks that a launcher has started together and MPI sees as jobs of one rank each are refused
/// with code 64. From the start on, SIGUSR1 only asks to stop: `body` heeds `stop_requested`
/// (comm/stop.hpp). So does SIGTERM while a Watchdog::HeedsStop lives; otherwise it ends the
/// process.
int guarded_main(int argc, char** argv, const std::function<int(Runtime&)>& body,
                 double wait_limit = kWaitLimitS);

/// Where a rank computes and by what it talks.
struct Placement {
  at::Device device{at::kCPU};
  std::string backend = "mpi";            ///< "mpi" or "nccl"
  std::vector<std::string> rank_devices;  ///< for each world rank: "host: cuda:1 (NVIDIA H200)"
  std::string note;  ///< one line for the log when the choice needs one, else empty
};

/// Collective. device: auto | cpu | cuda; backend: auto | mpi | nccl. auto takes CUDA when every
/// node has a device, NCCL when every rank has one of its own; ranks that share a GPU use MPI
/// staged through host memory, and `note` says so. The device is local_rank modulo the visible
/// devices; it is made current. Throws UsageError(kUnavailable) with the mapping when what was
/// asked for explicitly cannot be (nccl with a shared GPU, cuda without one, NCCL not compiled in).
Placement choose_placement(Runtime& runtime, const std::string& device, const std::string& backend);

/// Collective. The communicator over all ranks for tensors on `placement.device`. NCCL gives up
/// what takes longer than `limit_s` seconds (run.timeout; 0: never); MPI is left to the watchdog.
CommPtr make_communicator(Runtime& runtime, const Placement& placement, double limit_s);

/// The CPU threads of this rank, and what is harmful about them.
struct ThreadPlan {
  int threads = 1;                    ///< set with at::set_num_threads
  int bound_cores = 1;                ///< cores that this rank may run on
  std::vector<std::string> warnings;  ///< on rank 0, one line each; also set for other ranks
};

/// Collective. requested 0: the cores that this rank may run on, divided by the node's ranks that
/// share them (at least 1; OMP_NUM_THREADS, when set, is taken instead). Warns when threads of one
/// rank share one core because the launcher bound it, when the ranks of a node together run more
/// threads than its cores, when several ranks are bound to one and the same core, and when ranks
/// bound to one core each leave most cores idle. Sets the count. Where it is above 1, tries typical
/// work on one thread and on so many for some tens of milliseconds, and warns if they slow it down.
ThreadPlan plan_threads(Runtime& runtime, int requested);

}  // namespace syncbn
