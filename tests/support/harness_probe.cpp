// Tests that go wrong in each way that the main program of MPI tests must see; harness_test runs
// them and expects failure. The rank that goes wrong is the last one.
#include <gtest/gtest.h>

#include "support/mpi_main.hpp"

namespace syncbn {
namespace {

bool last_rank() {
  return test_runtime().rank() == test_runtime().size() - 1;
}

TEST(Probe, Passes) {
  test_runtime().world()->barrier();
}
TEST(Probe, FailsOnTheLastRank) {
  EXPECT_FALSE(last_rank()) << "said by the last rank";
}
TEST(Probe, Skips) {
  GTEST_SKIP() << "no reason";
}
TEST(Probe, Throws) {
  if (last_rank()) throw Error("thrown by the last rank");
}

}  // namespace
}  // namespace syncbn
