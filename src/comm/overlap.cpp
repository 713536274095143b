#include "comm/overlap.hpp"

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace syncbn {
namespace {

at::Tensor host_tensor(at::IntArrayRef sizes, at::ScalarType dtype, at::Device device) {
  // Pinning needs a CUDA driver.
  return at::empty(sizes, at::device(at::kCPU).dtype(dtype).pinned_memory(device.is_cuda()));
}

}  // namespace

void DeviceMark::set() {
  if (device_.is_cpu()) return;
  event_.record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
}

HostStaging::HostStaging(at::IntArrayRef sizes, at::ScalarType dtype, at::Device device)
    : buffers_{Buffer{host_tensor(sizes, dtype, device), DeviceMark(device)},
               Buffer{host_tensor(sizes, dtype, device), DeviceMark(device)}} {}

at::Tensor& HostStaging::to_fill() {
  buffers_[turn_].copied.wait();
  return buffers_[turn_].host;
}

void HostStaging::send(at::Tensor& out) {
  Buffer& buffer = buffers_[turn_];
  out.copy_(buffer.host.narrow(0, 0, out.size(0)), /*non_blocking=*/true);
  buffer.copied.set();
  turn_ = 1 - turn_;
}

}  // namespace syncbn
