// A training step allocates no tensor memory: everything was made by the first steps. The calls of
// a norm layer do not even use the heap. On CUDA ATen's kernels take memory for what they return;
// it must come out of what the caching allocator holds, because asking the driver for more waits
// for the device.

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <tuple>
#include <utility>

#include "nn/norm.hpp"
#include "support/mpi_main.hpp"
#include "train/trainer.hpp"

namespace {

// Calls of operator new by this program and the C++ libraries it uses, LibTorch among them; what C
// code takes by malloc (the MPI library) is not counted.
std::atomic<int64_t> heap_allocations{0};

}  // namespace

// Not inlined, or GCC takes the pairs new–free and malloc–delete for mistakes.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++heap_allocations;
  if (void* memory = std::malloc(bytes > 0 ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

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

/// Counts what costs: any tensor on the CPU, the driver's allocations on CUDA.
class AllocationCounter {
 public:
  explicit AllocationCounter(at::Device device) : device_(device) {
    if (device.is_cpu()) on_cpu_ = std::make_unique<CountingAllocator>();
    take();
  }
  /// Since the last call.
  int64_t take() {
    if (on_cpu_) return on_cpu_->take();
    const int64_t before = seen_;
    seen_ =
        at::getDeviceAllocator(device_.type())->getDeviceStats(device_.index()).num_device_alloc;
    return seen_ - before;
  }

 private:
  at::Device device_;
  std::unique_ptr<CountingAllocator> on_cpu_;
  int64_t seen_ = 0;
};

struct Case {
  const char* name;
  const char* norm;
  const char* norm_batch;
  const char* optimizer;
  const char* dtype;
  double clip;
  double dropout = 0;
  const char* activation = "relu";
  const char* decay = "all";
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

class Allocation : public testing::TestWithParam<std::tuple<Case, const char*>> {};

TEST(CountingAllocator, SeesATensor) {
  CountingAllocator allocator;
  const at::Tensor t = at::ones({3});
  EXPECT_GE(allocator.take(), 1);
  const at::Tensor view = t.narrow(0, 1, 2);
  EXPECT_EQ(allocator.take(), 0);
}

TEST(AllocationCounter, SeesATensorOfTheDevice) {
  AllocationCounter counter(test_device());
  // Far above what the caching allocator may hold already.
  const at::Tensor t = at::empty({256 << 20}, at::device(test_device()).dtype(at::kByte));
  EXPECT_GE(counter.take(), 1);
  EXPECT_EQ(counter.take(), 0);
}

TEST_P(Allocation, NoneInSteadyState) {
  constexpr int64_t kWarmUp = 2, kSteps = 20;
  Runtime& runtime = test_runtime();
  const auto& [c, reduce] = GetParam();
  Options options;
  options.data.name = "synthetic";
  options.norm.kind = c.norm;
  options.norm.batch = c.norm_batch;
  options.model.activation = c.activation;
  options.model.dropout = c.dropout;
  options.train.batch = 39;  // uneven shares and shards, of two samples or three
  options.train.optimizer = c.optimizer;
  options.train.clip = c.clip;
  options.train.weight_decay = 0.01;
  options.train.decay = c.decay;
  options.train.max_steps = kWarmUp;
  options.train.drop_last = true;
  options.run.dtype = c.dtype;
  options.run.reduce = reduce;
  const Dataset data = load_dataset(runtime, options);
  Trainer trainer(runtime.world(), options, data, test_device());
  trainer.train_epoch(0);

  AllocationCounter counter(test_device());
  int64_t allocations = 0;
  for (int64_t k = 0; k < kSteps; ++k) {
    trainer.train_step(k);
    allocations += counter.take();
  }
  EXPECT_EQ(allocations, 0) << "in " << kSteps << " steps";
}

INSTANTIATE_TEST_SUITE_P(
    Steps, Allocation,
    testing::Combine(
        testing::Values(
            Case{"NoNormAdam", "none", "global", "adam", "float32", 0},
            Case{"NoNormSgd", "none", "global", "sgd", "float32", 0},
            Case{"SyncAdam", "batch", "global", "adam", "float32", 0},
            Case{"SyncAdamW", "batch", "global", "adamw", "float32", 0},
            Case{"SyncSgd", "batch", "global", "sgd", "float32", 0},
            Case{"SyncAdamDouble", "batch", "global", "adam", "float64", 0},
            Case{"LocalAdam", "batch", "local", "adam", "float32", 0},
            Case{"GhostSgd", "batch", "4", "sgd", "float32", 0},
            Case{"SyncSgdClip", "batch", "global", "sgd", "float32", 1},
            Case{"SyncSigmoidSgd", "batch", "global", "sgd", "float32", 0, 0, "sigmoid"},
            Case{"LayerNormTanhSgd", "layer", "global", "sgd", "float32", 0, 0, "tanh"},
            Case{"LayerNormAdamDouble", "layer", "global", "adam", "float64", 0},
            Case{"DropoutSgd", "batch", "global", "sgd", "float32", 0, 0.3},
            Case{"DecayOfWeightsSgd", "batch", "global", "sgd", "float32", 0, 0, "relu", "weights"},
            Case{"DecayOfWeightsAdamW", "batch", "global", "adamw", "float32", 0, 0, "relu",
                 "weights"}),
        testing::Values("canonical", "fast")),
    [](const auto& parameter) {
      return concat(std::get<0>(parameter.param).name, '_', std::get<1>(parameter.param));
    });

TEST(Heap, CountsATensor) {
  const int64_t before = heap_allocations;
  const at::Tensor t = at::ones({3});
  EXPECT_GT(heap_allocations, before);
}

// The layer's own calls, on one rank: what a communicator allocates is its own matter.
TEST(Heap, NormLayersLeaveItAlone) {
  constexpr int64_t kBatch = 31, kFeatures = 70;
  const CommPtr world = test_runtime().world();
  const CommPtr alone = world->split(world->rank(), 0);
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    for (const auto& [kind, norm_batch] :
         {std::pair{"batch", "global"}, std::pair{"batch", "local"}, std::pair{"batch", "4"},
          std::pair{"layer", "global"}}) {
      SCOPED_TRACE(concat(kind, ' ', norm_batch, ' ', dtype));
      NormOptions options;
      options.kind = kind;
      const auto layer =
          make_norm(options, kFeatures, fusible(options, Activation::kTanh), dtype, at::kCPU);
      const auto vector = [&] { return at::ones({kFeatures}, dtype); };
      const Sharding sharding = {3, 0, 1, true};
      layer->bind({/*layer=*/0,
                   sharding,
                   {vector(), vector()},
                   {{vector()}, {vector()}},
                   {at::zeros({layer->reduced()}, dtype)}});
      StatsGrouping grouping(alone, sharding, group_size(norm_batch, kBatch));
      const std::vector<Range> shards = sharding.shard_rows(kBatch);
      StepContext context;
      context.shards = &shards;
      context.batch = kBatch;
      context.rows = {0, kBatch};
      context.groups = &grouping.of(kBatch);
      at::Tensor x = at::rand({context.rows.size(), kFeatures}, dtype);
      at::Tensor y = at::empty_like(x), dy = at::rand_like(x), dx = at::empty_like(x);
      int64_t allocations = 0;
      for (int step = 0; step < 3; ++step) {  // the first makes the buffers
        const int64_t before = heap_allocations;
        layer->forward(x, y, context);
        layer->backward(x, y, dy, dx, context);
        layer->after_reduce();
        if (step > 0) allocations += heap_allocations - before;
      }
      EXPECT_EQ(allocations, 0);
    }
  }
}

}  // namespace
}  // namespace syncbn
