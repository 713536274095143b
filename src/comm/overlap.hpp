// How the host works ahead of a CUDA device: a mark in the device's stream that can be waited for,
// and host memory that is copied to the device without waiting for it.
//
// All of it concerns the current stream of one device. On the CPU, where work is done when its call
// returns, marks are passed at once and copies are plain. Errors: c10::Error with CUDA's own text.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/Event.h>

#include <array>

namespace syncbn {

/// A point in the work of a device.
class DeviceMark {
 public:
  explicit DeviceMark(at::Device device) : device_(device), event_(device.type()) {}

  /// Marks all work enqueued so far; forgets the mark before.
  void set();
  /// Whether that work is done; true if never set.
  bool passed() const { return event_.query(); }
  /// Returns when passed(). Looks for nothing else meanwhile: see Communicator::wait.
  void wait() const { event_.synchronize(); }

 private:
  at::Device device_;
  c10::Event event_;
};

/// Two host tensors, pinned and used in turn: while the copy out of one is under way the other is
/// filled. The host waits only to fill a tensor again whose copy, two sends ago, is not done.
class HostStaging {
 public:
  HostStaging(at::IntArrayRef sizes, at::ScalarType dtype, at::Device device);

  /// The tensor (sizes, dtype, CPU) to fill next; the same one until `send`.
  at::Tensor& to_fill();
  /// Enqueues the copy of its first out.size(0) rows into `out`, of the same dtype, on the device.
  void send(at::Tensor& out);

 private:
  struct Buffer {
    at::Tensor host;
    DeviceMark copied;
  };
  std::array<Buffer, 2> buffers_;
  size_t turn_ = 0;
};

}  // namespace syncbn
