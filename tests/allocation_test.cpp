// A training step allocates no tensor memory: everything was made by the first steps.

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <atomic>

#include "support/mpi_main.hpp"
#include "train/trainer.hpp"

namespace syncbn {
namespace {

/// While it lives, tensors on the CPU get their memory through it.
class CountingAllocator final : public c10::Allocator {
 public:
  CountingAllocator() : below_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this, kPriority); }
  ~CountingAllocator() override { c10::SetCPUAllocator(below_, kPriority); }
  CountingAllocator(const CountingAllocator&) = delete;
  CountingAllocator& operator=(const CountingAllocator&) = delete;

  c10::DataPtr allocate(size_t bytes) override {
    ++count_;
    return below_->allocate(bytes);
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return below_->raw_deleter(); }
  int64_t take() { return count_.exchange(0); }

 private:
  static constexpr uint8_t kPriority = 200;  // above whatever was set before
  c10::Allocator* below_;
  std::atomic<int64_t> count_{0};
};

struct Case {
  const char* name;
  const char* norm;
  const char* norm_batch;
  const char* optimizer;
  const char* dtype;
  double clip;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

class Allocation : public testing::TestWithParam<Case> {};

TEST(CountingAllocator, SeesATensor) {
  CountingAllocator allocator;
  const at::Tensor t = at::ones({3});
  EXPECT_GE(allocator.take(), 1);
  const at::Tensor view = t.narrow(0, 1, 2);
  EXPECT_EQ(allocator.take(), 0);
}

TEST_P(Allocation, NoneInSteadyState) {
  constexpr int64_t kWarmUp = 2, kSteps = 20;
  Runtime& runtime = test_runtime();
  const Case& c = GetParam();
  Options options;
  options.data.name = "synthetic";
  options.norm.kind = c.norm;
  options.norm.batch = c.norm_batch;
  options.train.batch = 31;  // uneven shares
  options.train.optimizer = c.optimizer;
  options.train.clip = c.clip;
  options.train.max_steps = kWarmUp;
  options.train.drop_last = true;
  options.run.dtype = c.dtype;
  const Dataset data = load_dataset(runtime, options);
  Trainer trainer(runtime.world(), options, data, at::kCPU);
  trainer.train_epoch(0);

  CountingAllocator allocator;
  int64_t allocations = 0;
  for (int64_t k = 0; k < kSteps; ++k) {
    trainer.train_step(k);
    allocations += allocator.take();
  }
  EXPECT_EQ(allocations, 0) << "in " << kSteps << " steps";
}

INSTANTIATE_TEST_SUITE_P(
    Steps, Allocation,
    testing::Values(Case{"NoNormAdam", "none", "global", "adam", "float32", 0},
                    Case{"NoNormSgd", "none", "global", "sgd", "float32", 0},
                    Case{"SyncAdam", "batch", "global", "adam", "float32", 0},
                    Case{"SyncAdamW", "batch", "global", "adamw", "float32", 0},
                    Case{"SyncSgd", "batch", "global", "sgd", "float32", 0},
                    Case{"SyncAdamDouble", "batch", "global", "adam", "float64", 0},
                    Case{"LocalAdam", "batch", "local", "adam", "float32", 0},
                    Case{"GhostSgd", "batch", "4", "sgd", "float32", 0},
                    Case{"SyncSgdClip", "batch", "global", "sgd", "float32", 1}),
    [](const auto& parameter) { return std::string(parameter.param.name); });

}  // namespace
}  // namespace syncbn
