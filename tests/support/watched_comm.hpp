// A communicator over all ranks that tells when the host waits for the device.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "comm/overlap.hpp"
#include "support/training.hpp"

namespace syncbn {

/// The world, which counts the host's waits for the device and fails at the one it is told.
class WatchedComm final : public Communicator {
 public:
  int rank() const override { return world()->rank(); }
  int size() const override { return world()->size(); }
  std::string backend() const override { return world()->backend(); }
  void wait(const DeviceMark& mark) override {
    if (++waits == fails_at) throw Error("a peer is gone", ExitCode::kSystem);
    world()->wait(mark);
  }
  using Communicator::wait;

  int64_t waits = 0, fails_at = -1;

 private:
  void do_all_reduce(at::Tensor& t, ReduceOp op) override { world()->all_reduce(t, op); }
  void do_all_gather(const at::Tensor& t, at::Tensor& out) override { world()->all_gather(t, out); }
  void do_all_to_all(const at::Tensor& t, at::Tensor& out) override { world()->all_to_all(t, out); }
  void do_broadcast(at::Tensor& t, int root) override { world()->broadcast(t, root); }
  void do_barrier() override { world()->barrier(); }
  CommPtr do_split(int color, int key) override { return world()->split(color, key); }
  int64_t do_max_on_host(int64_t value) override { return world()->max_on_host(value); }
  std::vector<std::string> do_gather_text(const std::string& text) override {
    return world()->gather_text(text);
  }
};

}  // namespace syncbn
