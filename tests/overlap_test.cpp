// The host's work ahead of the device: marks and staging, on the tested device.
#include "comm/overlap.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

#include "support/mpi_main.hpp"

namespace syncbn {
namespace {

TEST(DeviceMark, NeverSetIsPassed) {
  const DeviceMark mark(test_device());
  EXPECT_TRUE(mark.passed());
  mark.wait();
}

TEST(DeviceMark, IsPassedWhenTheWorkBeforeItIsDone) {
  DeviceMark mark(test_device());
  at::Tensor t = at::ones({500, 500}, test_device());
  for (int i = 0; i < 50; ++i) t = t.mm(t).clamp_(0, 1);
  mark.set();
  mark.wait();
  EXPECT_TRUE(mark.passed());
  EXPECT_EQ(t.min().item<float>(), 1);
}

TEST(HostStaging, FillsItsTwoTensorsInTurn) {
  HostStaging staging({4, 3}, at::kLong, test_device());
  at::Tensor out = at::empty({2, 3}, at::device(test_device()).dtype(at::kLong));
  const void* const first = staging.to_fill().data_ptr();
  EXPECT_EQ(staging.to_fill().data_ptr(), first) << "nothing was sent";
  EXPECT_EQ(staging.to_fill().sizes(), at::IntArrayRef({4, 3}));
  EXPECT_TRUE(staging.to_fill().is_cpu());
  staging.send(out);
  const void* const second = staging.to_fill().data_ptr();
  EXPECT_NE(second, first) << "filled while it may still be copied";
  staging.send(out);
  EXPECT_EQ(staging.to_fill().data_ptr(), first);
}

// Without waiting, behind work that holds the copies up, and of fewer rows than there are.
TEST(HostStaging, WhatIsSentIsWhatWasFilled) {
  constexpr int64_t kSends = 60, kRows = 100, kColumns = 1000;
  HostStaging staging({kRows, kColumns}, at::kInt, test_device());
  at::Tensor busy = at::ones({500, 500}, test_device());
  std::vector<at::Tensor> sent;
  for (int64_t i = 0; i < kSends; ++i) {
    busy = busy.mm(busy).clamp_(0, 1);
    staging.to_fill().fill_(i);
    sent.push_back(at::full({kRows - i, kColumns}, -1, at::device(test_device()).dtype(at::kInt)));
    staging.send(sent.back());
  }
  for (int64_t i = 0; i < kSends; ++i) {
    EXPECT_TRUE(sent[static_cast<size_t>(i)].eq(i).all().item<bool>()) << "send " << i;
  }
}

}  // namespace
}  // namespace syncbn
