#include <gtest/gtest.h>
#include <torch/torch.h>

#include "comm/communicator.hpp"
#include "support/mpi_main.hpp"

namespace syncbn {
namespace {

TEST(Communicator, AllReduceSums) {
  auto& world = *test_runtime().world();
  auto t = torch::full({3}, world.rank() + 1, torch::kDouble);
  world.all_reduce(t);
  const double expected = world.size() * (world.size() + 1) / 2.0;
  EXPECT_TRUE(torch::equal(t, torch::full({3}, expected, torch::kDouble)));
}

}  // namespace
}  // namespace syncbn
