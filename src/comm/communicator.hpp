// The communicator: the few collective calls that syncbn needs, behind one interface.
//
// Contract, for every member except rank(), size(), backend() and wait(): *collective* — every rank
// of this communicator calls it, in the same order, with the same dtype and the same number of
// elements. Tensors are contiguous and live on the device that the communicator was made for (MPI
// takes CUDA tensors too, staged through host memory). dtypes: float32, float64, int32, int64,
// uint8. Empty tensors are allowed and move nothing.
//
// MPI calls block until done. NCCL calls are enqueued on the current CUDA stream and return at
// once. A communicator of one rank returns at once inside; callers never test for it.
//
// Errors: a failing MPI, NCCL or CUDA call throws Error(kSystem) with the library's own text.
// Destructors never throw, and free nothing while an exception unwinds or after MPI is finalised.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "comm/collective_call.hpp"

namespace syncbn {

/// What a rank hands to collectives.
struct Traffic {
  int64_t calls = 0, bytes = 0;
  Traffic& operator+=(const Traffic& other) {
    calls += other.calls;
    bytes += other.bytes;
    return *this;
  }
};

class Communicator;
class Contract;
class DeviceMark;
struct CheckRule;
class Watchdog;
using CommPtr = std::shared_ptr<Communicator>;

/// Seconds that a rank of a user's program may wait in one collective, unless it asks for others.
inline constexpr double kWaitLimitS = 600;

class Communicator {
 public:
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// "mpi" or "nccl".
  virtual std::string backend() const = 0;

  /// t ← op over all ranks of t, in place. The result has the same bits on every rank.
  void all_reduce(at::Tensor& t, ReduceOp op = ReduceOp::kSum, const Purpose& purpose = {});
  /// t (…) of every rank → out (size, …), in rank order. out: contiguous, t's dtype and device.
  void all_gather(const at::Tensor& t, at::Tensor& out, const Purpose& purpose = {});
  /// Block r of t (size, …) → rank r, where it becomes block q of out, q being the sender. out:
  /// contiguous, t's dtype, device and number of elements, other memory.
  void all_to_all(const at::Tensor& t, at::Tensor& out, const Purpose& purpose = {});
  /// t of `root` → t of every rank, in place.
  void broadcast(at::Tensor& t, int root = 0, const Purpose& purpose = {});

  /// Returns when this rank's device has passed `mark` (comm/overlap.hpp), for which it may have to
  /// wait for other ranks. NCCL asks meanwhile for errors of the transport and throws them; not
  /// passed within its deadline: Error(kWatchdog). Every wait of the host for a device on which
  /// collectives are under way goes here.
  virtual void wait(const DeviceMark& mark) = 0;
  /// The same for all work enqueued so far on `device`.
  void wait(at::Device device);

  /// Returns when every rank has called it. Never touches the GPU (as the next three).
  void barrier(const Purpose& purpose = {});
  /// Ranks with the same color ≥ 0 form a new communicator, ordered by key, then by rank.
  /// color < 0: this rank joins none and gets null. The new one has this one's watchdog.
  CommPtr split(int color, int key, const Purpose& purpose = {});
  /// The largest `value` of all ranks.
  int64_t max_on_host(int64_t value, const Purpose& purpose = {});
  /// `text` of every rank (any length, any bytes), in rank order, on every rank.
  std::vector<std::string> gather_text(const std::string& text, const Purpose& purpose = {});

  /// Collectives called so far, the one under way included; the same number on all its ranks.
  uint64_t calls() const { return calls_; }
  /// How often collectives are compared from here on, in this communicator and all that it was
  /// split from or into.
  void check_collectives(const CheckRule& rule);
  /// What compares this communicator's collectives over its ranks; null for one rank.
  const std::shared_ptr<Contract>& contract() const { return contract_; }
  /// What watches the waits in this communicator's collectives; may be null.
  const std::shared_ptr<Watchdog>& watchdog() const { return watchdog_; }

 protected:
  explicit Communicator(std::shared_ptr<Watchdog> watchdog = nullptr,
                        std::shared_ptr<Contract> contract = nullptr)
      : watchdog_(std::move(watchdog)), contract_(std::move(contract)) {}

  // What the calls above do, between their brackets.
  virtual void do_all_reduce(at::Tensor& t, ReduceOp op) = 0;
  virtual void do_all_gather(const at::Tensor& t, at::Tensor& out) = 0;
  virtual void do_all_to_all(const at::Tensor& t, at::Tensor& out) = 0;
  virtual void do_broadcast(at::Tensor& t, int root) = 0;
  virtual void do_barrier() = 0;
  virtual CommPtr do_split(int color, int key) = 0;
  virtual int64_t do_max_on_host(int64_t value) = 0;
  virtual std::vector<std::string> do_gather_text(const std::string& text) = 0;

 private:
  class Bracket;

  std::shared_ptr<Watchdog> watchdog_;
  std::shared_ptr<Contract> contract_;
  uint64_t calls_ = 0;
};

/// Collective. Runs `phase` on every rank; if it throws on any, all ranks throw UsageError with the
/// message and exit code of the lowest such rank ("[rank r/R] " in front unless all ranks failed
/// with the same message). `phase` calls no collective. Put it around whatever may fail on one rank
/// alone, before the next collective, so that no peer is left waiting.
void agree(Communicator& comm, const Purpose& purpose, const std::function<void()>& phase);

/// Collective. Throws UsageError(kDisagree), naming the ranks that differ from rank 0 and showing
/// the first differing line of both, unless `text` is the same on every rank. `what`: a string
/// literal, "the options".
void agree_same(Communicator& comm, const std::string& text, const char* what);

}  // namespace syncbn
