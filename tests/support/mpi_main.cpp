#include "support/mpi_main.hpp"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "comm/cuda_device.hpp"
#include "comm/watchdog.hpp"
#include "support/strict.hpp"

namespace syncbn {
namespace {

constexpr double kTestDeadlineS = 30;

Runtime* g_runtime = nullptr;  // GoogleTest gives tests no other way to be handed something

/// Makes the ranks' verdicts one: prints other ranks' failures, and fails a test on all ranks if it
/// failed on any. Uses a communicator of its own, apart from the tests' traffic.
class RankVerdict : public testing::EmptyTestEventListener {
 public:
  explicit RankVerdict(Runtime& runtime)
      : comm_(runtime.world()->split(0, runtime.rank())),
        who_(concat("[rank ", comm_->rank(), "/", comm_->size(), "] ")),
        deadline_(who_ + "test over its deadline", kTestDeadlineS) {}

 private:
  void OnTestStart(const testing::TestInfo& info) override {
    test_ = concat(info.test_suite_name(), ".", info.name());
    deadline_.beat(info.name());
  }

  // GoogleTest calls this under its lock: nothing here may ask it for anything.
  void OnTestPartResult(const testing::TestPartResult& part) override {
    if (comm_->rank() == 0 || !part.failed() || agreeing_) return;
    std::fprintf(stderr, "%s%s: %s:%d: %s\n", who_.c_str(), test_.c_str(),
                 part.file_name() ? part.file_name() : "?", part.line_number(), part.message());
  }

  void OnTestEnd(const testing::TestInfo& info) override {
    refuse_skip(info);
    const auto failed = comm_->gather_text(info.result()->Failed() ? "failed" : "");
    std::string ranks;
    for (size_t r = 0; r < failed.size(); ++r) {
      if (!failed[r].empty()) ranks += " " + std::to_string(r);
    }
    agreeing_ = true;
    if (!ranks.empty() && !info.result()->Failed()) ADD_FAILURE() << "failed on rank" << ranks;
    agreeing_ = false;
    deadline_.beat("between tests");
  }

  CommPtr comm_;
  std::string who_, test_;
  bool agreeing_ = false;
  Watchdog deadline_;
};

int run_tests(Runtime& runtime, int argc, char** argv) {
  const char* expected = std::getenv("SYNCBN_EXPECTED_RANKS");
  if (expected == nullptr || std::to_string(runtime.size()) != expected) {
    throw UsageError(concat("this job has ", runtime.size(),
                            " ranks, and SYNCBN_EXPECTED_RANKS is ",
                            expected ? expected : "not set", ": run the tests with ctest"));
  }
  if (may_skip() && runtime.world()->max_on_host(cuda::device_count() == 0 ? 1 : 0) != 0) {
    if (runtime.rank() == 0) std::puts("all tests skipped: a rank sees no CUDA device");
    return kSkipped;
  }
  testing::InitGoogleTest(&argc, argv);
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (runtime.rank() != 0) delete listeners.Release(listeners.default_result_printer());
  auto* verdict = new RankVerdict(runtime);
  listeners.Append(verdict);
  g_runtime = &runtime;
  const int code = strict_verdict(RUN_ALL_TESTS());
  g_runtime = nullptr;
  delete listeners.Release(verdict);  // its communicator must not outlive the runtime
  return static_cast<int>(runtime.world()->max_on_host(code));
}

}  // namespace

Runtime& test_runtime() {
  SYNCBN_CHECK(g_runtime != nullptr, "test_runtime() is for the bodies of tests.");
  return *g_runtime;
}

at::Device test_device() {
  if (!may_skip()) return at::kCPU;
  const int index = test_runtime().local_rank() % cuda::device_count();
  cuda::set_device(index);
  return at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
}

}  // namespace syncbn

int main(int argc, char** argv) {
  return syncbn::guarded_main(
      argc, argv, [&](syncbn::Runtime& runtime) { return syncbn::run_tests(runtime, argc, argv); });
}
