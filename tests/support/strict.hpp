// What both test mains hold against a run: skipped tests, and no tests at all.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace syncbn {

constexpr int kSkipped = 77;  // the SKIP_RETURN_CODE of cmake/AddTest.cmake

/// A run on a device that may be absent; only there a test may be skipped.
inline bool may_skip() {
  const char* device = std::getenv("SYNCBN_TEST_DEVICE");
  return device != nullptr && std::string(device) == "cuda";
}

/// Call at the end of each test.
inline void refuse_skip(const testing::TestInfo& info) {
  if (info.result()->Skipped() && !may_skip()) ADD_FAILURE() << "a skipped test proves nothing";
}

/// The exit code of a finished run, from what RUN_ALL_TESTS returned.
inline int strict_verdict(int gtest_code) {
  const auto& run = *testing::UnitTest::GetInstance();
  if (gtest_code == 0 && run.test_to_run_count() == 0) return EXIT_FAILURE;
  if (gtest_code == 0 && run.skipped_test_count() > 0) return kSkipped;
  return gtest_code;
}

}  // namespace syncbn
