// The count of tensor memory: what LibTorch allocates while the counter lives, and the most of it.
#include "train/measurements.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <optional>

#include "support/mpi_main.hpp"

namespace syncbn {
namespace {

at::Tensor bytes(int64_t count) {
  return at::empty({count}, at::device(test_device()).dtype(at::kByte));
}

TEST(TensorMemory, CountsWhatLivesAndTheMostThatDid) {
  std::optional<at::Tensor> before = bytes(1 << 20);
  TensorMemory memory;
  EXPECT_EQ(memory.live(), 0);
  std::optional<at::Tensor> first = bytes(4096), second = bytes(8192);
  EXPECT_EQ(memory.live(), 12288);
  before.reset();
  EXPECT_EQ(memory.live(), 12288) << "memory from before does not count, nor does its end";
  first.reset();
  EXPECT_EQ(memory.live(), 8192);
  EXPECT_EQ(memory.peak(), 12288);
  const at::Tensor third = bytes(2048);
  EXPECT_EQ(memory.live(), 10240);
  EXPECT_EQ(memory.peak(), 12288);
}

TEST(TensorMemory, EndsWithItsScope) {
  std::optional<at::Tensor> kept;
  {
    TensorMemory memory;
    kept = bytes(4096);
    EXPECT_EQ(memory.live(), 4096);
  }
  TensorMemory memory;
  kept.reset();
  EXPECT_EQ(memory.live(), 0);
  EXPECT_EQ(memory.peak(), 0);
}

}  // namespace
}  // namespace syncbn
