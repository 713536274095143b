// Stands in for cuda_device.cpp where LibTorch has no CUDA.
#include "base/error.hpp"
#include "comm/cuda_device.hpp"

namespace syncbn::cuda {
namespace {

[[noreturn]] void no_cuda() {
  throw Error("This build has no CUDA.", ExitCode::kSystem);
}

}  // namespace

Facts facts() {
  return {};
}
int device_count() noexcept {
  return 0;
}
void set_device(int) {
  no_cuda();
}
std::string device_name(int) {
  no_cuda();
}
std::string bus_id(int) {
  no_cuda();
}
void synchronize() {
  no_cuda();
}
int64_t peak_memory_bytes(int) {
  no_cuda();
}
std::string version() {
  return "none";
}

}  // namespace syncbn::cuda
