// How far tensors are apart, and the expectation that they are close.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace syncbn {

// Tensors may be on different devices: all is compared on the CPU.

/// The largest |actual − expected| over the largest |expected|; NaN if either holds one.
inline double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  if (expected.numel() == 0) return 0;
  const at::Tensor a = actual.detach().cpu().to(at::kDouble);
  const at::Tensor e = expected.detach().cpu().to(at::kDouble);
  constexpr double kSmallest = 1e-300;
  return (a - e).abs().max().item<double>() / std::max(e.abs().max().item<double>(), kSmallest);
}

inline void expect_close(const at::Tensor& actual, const at::Tensor& expected, double tolerance,
                         const std::string& what) {
  if (actual.sizes() != expected.sizes()) {
    ADD_FAILURE() << what << ": shape " << actual.sizes() << ", expected " << expected.sizes();
    return;
  }
  EXPECT_LE(relative_error(actual, expected), tolerance) << what;
}

/// The largest |actual − expected|, relative where expected is above 1: for values that may be
/// rounding noise around zero, such as a bias whose effect a norm layer takes away.
inline double difference(const at::Tensor& actual, const at::Tensor& expected) {
  if (expected.numel() == 0) return 0;
  const double largest = expected.detach().cpu().to(at::kDouble).abs().max().item<double>();
  return relative_error(actual, expected) * std::min(largest, 1.0);
}

inline void expect_same_bits(const at::Tensor& actual, const at::Tensor& expected,
                             const std::string& what) {
  EXPECT_EQ(actual.scalar_type(), expected.scalar_type()) << what;
  EXPECT_TRUE(at::equal(actual.cpu(), expected.cpu())) << what;
}

}  // namespace syncbn
