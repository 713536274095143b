// The statistics of probes against enumeration, LibTorch and closed forms.
#include "study/unit_statistics.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/error.hpp"
#include "support/close.hpp"

namespace syncbn {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// (8, 3): a skewed unit, one with an outlier, one that is dead.
at::Tensor small_population() {
  return at::tensor(
             {0.1, 1.0, 0.3, 0.4, 2.5, 1.0, 1.7, 0.2, -0.3, 0.2, 9.0, 0.5, 0.0, 0.1, 0.6, 0.4},
             at::kDouble)
      .view({2, 8})
      .t()
      .contiguous();
}

at::Tensor with_a_dead_unit(const at::Tensor& x) {
  return at::cat({x, at::full({x.size(0), 1}, 0.1, at::kDouble)}, 1);
}

/// Noise over all groups of m samples, each once.
StatisticsNoise over_all_groups(const at::Tensor& x, const UnitMoments& moments, int64_t m) {
  NoiseMeter meter(moments);
  for (int64_t bits = 0; bits < int64_t{1} << x.size(0); ++bits) {
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < x.size(0); ++i) {
      if ((bits >> i & 1) != 0) rows.push_back(i);
    }
    if (static_cast<int64_t>(rows.size()) == m) meter.add(x.index_select(0, at::tensor(rows)));
  }
  return meter.noise();
}

TEST(NoiseTheory, IsExactForEveryGroupOfASmallPopulation) {
  const at::Tensor x = with_a_dead_unit(small_population());
  const UnitMoments moments = unit_moments(x);
  EXPECT_EQ(moments.alive.sum().item<int64_t>(), 2);
  for (int64_t m = 1; m <= 8; ++m) {
    SCOPED_TRACE(m);
    const StatisticsNoise found = over_all_groups(x, moments, m), theory = noise_theory(moments, m);
    EXPECT_NEAR(found.mean, theory.mean, 1e-12);
    if (m == 1) {
      EXPECT_TRUE(std::isnan(found.variance) && std::isnan(theory.variance));
    } else {
      EXPECT_NEAR(found.variance, theory.variance, 1e-12);
    }
  }
  EXPECT_EQ(noise_theory(moments, 8).mean, 0);
  EXPECT_TRUE(std::isnan(noise_theory(moments, 9).mean));
}

TEST(NoiseTheory, OfALargePopulationIsTheClosedForm) {
  at::manual_seed(1);
  const UnitMoments moments = unit_moments(at::randn({200000, 2}, at::kDouble).exp());
  const double kurtosis = moments.kurtosis.mean().item<double>();
  for (const double m : {2.0, 5.0, 64.0}) {
    const StatisticsNoise theory = noise_theory(moments, static_cast<int64_t>(m));
    EXPECT_NEAR(theory.mean * m, 1, 1e-3);
    const double expected = (kurtosis - (m - 3) / (m - 1)) / m;
    EXPECT_NEAR(theory.variance / expected, 1, 2e-3) << m;
  }
}

TEST(UnitMoments, AreThePopulations) {
  const at::Tensor x = small_population();
  const UnitMoments moments = unit_moments(x);
  EXPECT_EQ(moments.samples, 8);
  expect_close(moments.variance, x.var(0, /*unbiased=*/false), 1e-14, "variance");
  const at::Tensor centred = x - x.mean(0);
  expect_close(moments.kurtosis, centred.pow(4).mean(0) / centred.square().mean(0).square(), 1e-14,
               "kurtosis");
  at::manual_seed(2);
  EXPECT_NEAR(unit_moments(at::randn({100000, 1}, at::kDouble)).kurtosis.item<double>(), 3, 0.1);
  EXPECT_THROW(unit_moments(x.to(at::kFloat)), Error);
}

TEST(Noise, OfNothingIsNotMeasured) {
  const UnitMoments dead = unit_moments(at::full({8, 2}, 0.1, at::kDouble));
  NoiseMeter meter(dead);
  EXPECT_TRUE(std::isnan(meter.noise().mean)) << "no group";
  meter.add(at::full({4, 2}, 0.1, at::kDouble));
  EXPECT_TRUE(std::isnan(meter.noise().mean)) << "no unit";
  EXPECT_TRUE(std::isnan(noise_theory(dead, 2).mean));
}

TEST(Quantile, IsATensAndLeavesOutWhatIsNotFinite) {
  at::manual_seed(3);
  const at::Tensor values = at::randn({101, 7}, at::kDouble);
  for (const double q : {0.0, 0.15, 0.5, 0.85, 0.99, 1.0}) {
    EXPECT_NEAR(quantile_of(values, q), at::quantile(values, q).item<double>(), 1e-14) << q;
  }
  const at::Tensor few = at::tensor({3.0, kNaN, 1.0, 2.0, std::numeric_limits<double>::infinity()});
  EXPECT_EQ(quantile_of(few.to(at::kDouble), 0.5), 2);
  EXPECT_TRUE(std::isnan(quantile_of(at::full({3}, kNaN, at::kDouble), 0.5)));
}

TEST(BackwardGain, IsByGroupAndUnit) {
  const at::Tensor dy =
      at::tensor({1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 3.0, 1.0}, at::kDouble).view({4, 2});
  const at::Tensor dx =
      at::tensor({2.0, 5.0, 2.0, 5.0, 1.0, 2.0, 0.0, 0.0}, at::kDouble).view({4, 2});
  const at::Tensor gamma = at::tensor({2.0, -1.0}, at::kDouble);
  const at::Tensor variance = at::tensor({0.5, 3.0}, at::kDouble);
  const at::Tensor gain = backward_gain(dy, dx, {{0, 3}, {3, 4}}, gamma, variance);
  ASSERT_EQ(gain.sizes(), (at::IntArrayRef{2, 2}));
  EXPECT_DOUBLE_EQ(gain[0][0].item<double>(), 9 * 0.5 / (4 * 5));
  EXPECT_TRUE(std::isnan(gain[0][1].item<double>())) << "no gradient to compare with";
  EXPECT_EQ(gain[1][0].item<double>(), 0);
  EXPECT_EQ(gain[1][1].item<double>(), 0);
}

}  // namespace
}  // namespace syncbn
