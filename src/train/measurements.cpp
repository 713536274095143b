#include "train/measurements.hpp"

#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <sys/resource.h>

#include <algorithm>
#include <unordered_map>

#include "comm/cuda_device.hpp"

namespace syncbn {

int64_t peak_memory_bytes(at::Device device) {
  if (device.is_cuda()) return cuda::peak_memory_bytes(device.index());
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  constexpr int64_t kKibibyte = 1024;  // ru_maxrss on Linux
  return usage.ru_maxrss * kKibibyte;
}

// LibTorch's allocators report to whoever stands where its profiler would.
class TensorMemory::Ledger final : public c10::MemoryReportingInfoBase {
 public:
  bool memoryProfilingEnabled() const override { return true; }
  // bytes: negative when memory is given back. Blocks from before are not in the table.
  void reportMemoryUsage(void* block, int64_t bytes, size_t, size_t, at::Device) override {
    if (bytes > 0) {
      sizes_[block] = bytes;
      live_ += bytes;
      peak_ = std::max(peak_, live_);
      return;
    }
    const auto found = sizes_.find(block);
    if (found == sizes_.end()) return;
    live_ -= found->second;
    sizes_.erase(found);
  }
  int64_t live() const { return live_; }
  int64_t peak() const { return peak_; }

 private:
  std::unordered_map<void*, int64_t> sizes_;
  int64_t live_ = 0, peak_ = 0;
};

TensorMemory::TensorMemory()
    : ledger_(std::make_shared<Ledger>()), guard_(c10::DebugInfoKind::PROFILER_STATE, ledger_) {}

int64_t TensorMemory::live() const {
  return ledger_->live();
}

int64_t TensorMemory::peak() const {
  return ledger_->peak();
}

MetricsRow measure(const MetricsRow& before, Trainer& trainer, const Score& trained,
                   const Score& validated, double samples_per_s, Communicator& world,
                   at::Device device) {
  MetricsRow row;
  row.epoch = before.epoch + 1;
  row.step = trainer.step();
  row.samples = before.samples + trained.samples;
  row.train_loss = trained.loss();
  row.train_accuracy = trained.accuracy();
  row.val_loss = validated.loss();
  row.val_accuracy = validated.accuracy();
  row.val_error = 1 - row.val_accuracy;
  row.lr = trainer.learning_rate(trainer.step() - 1);
  row.samples_per_s = samples_per_s;

  const StepTimes mine = trainer.take_times();
  at::Tensor times = at::tensor(
      {mine.data, mine.forward, mine.backward, mine.norm_comm, mine.gradient_comm, mine.optimizer},
      at::kDouble);
  world.all_reduce(times, ReduceOp::kSum, {"seconds of the parts of steps"});
  times /= world.size();
  double* const fields[] = {&row.data_s,      &row.forward_s,       &row.backward_s,
                            &row.norm_comm_s, &row.gradient_comm_s, &row.optimizer_s};
  for (int64_t i = 0; i < times.numel(); ++i) *fields[i] = times[i].item<double>();

  at::Tensor all = at::empty({world.size(), 1}, at::kLong);
  world.all_gather(at::full({1}, peak_memory_bytes(device), at::kLong), all, {"peak memory"});
  const auto* bytes = all.const_data_ptr<int64_t>();
  row.rank_peak_memory_bytes.assign(bytes, bytes + world.size());
  row.peak_memory_bytes = *std::max_element(bytes, bytes + world.size());
  return row;
}

}  // namespace syncbn
