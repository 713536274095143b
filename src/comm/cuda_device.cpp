#include "comm/cuda_device.hpp"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include "base/error.hpp"

namespace syncbn::cuda {
namespace {

void cuda_check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  throw Error(concat(call, " failed: ", cudaGetErrorString(code), " (CUDA ", version(), ")"),
              ExitCode::kSystem);
}

}  // namespace

Facts facts() {
  Facts facts;
  facts.runtime = CUDART_VERSION;
  if (cudaDriverGetVersion(&facts.driver) != cudaSuccess) facts.driver = 0;
  if (facts.driver == 0) return facts;
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code != cudaSuccess && code != cudaErrorNoDevice) facts.failure = cudaGetErrorString(code);
  cudaGetLastError();  // so that the next call is not taken to have failed
  return facts;
}

int device_count() noexcept {
  return c10::cuda::device_count();
}

void set_device(int index) {
  cuda_check(cudaSetDevice(index), "cudaSetDevice");
}

std::string device_name(int index) {
  cudaDeviceProp properties{};
  cuda_check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  return properties.name;
}

std::string bus_id(int index) {
  char text[32] = "";
  cuda_check(cudaDeviceGetPCIBusId(text, sizeof text, index), "cudaDeviceGetPCIBusId");
  return text;
}

void synchronize() {
  cuda_check(cudaStreamSynchronize(c10::cuda::getCurrentCUDAStream()), "cudaStreamSynchronize");
}

int64_t peak_memory_bytes(int index) {
  using c10::CachingAllocator::StatType;
  const auto stats =
      c10::cuda::CUDACachingAllocator::getDeviceStats(static_cast<c10::DeviceIndex>(index));
  return stats.allocated_bytes[static_cast<size_t>(StatType::AGGREGATE)].peak;
}

std::string version() {
  return concat(CUDART_VERSION / 1000, '.', CUDART_VERSION % 1000 / 10);
}

}  // namespace syncbn::cuda
