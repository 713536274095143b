// What probes compute from matrices of values (samples, units): the moments of a population, the
// noise of the mean and variance of groups drawn from it, and the gain of batch norm's backward
// pass. Matrices are float64 on the CPU. Not collective; the same bits on any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "base/range.hpp"

namespace syncbn {

/// Of each unit over the n samples of a population, (C) each.
struct UnitMoments {
  int64_t samples = 0;  ///< n
  at::Tensor mean;
  at::Tensor variance;  ///< σ², with the divisor n
  at::Tensor kurtosis;  ///< fourth central moment / σ⁴: 3 for a Gaussian
  at::Tensor alive;     ///< bool: not one value for all samples; means over units leave others out
};
UnitMoments unit_moments(const at::Tensor& x);

/// Mean over units of Var(mean of a group)/σ² and Var(variance of a group)/σ⁴, where a group's
/// variance has the divisor M−1. NaN: not defined (a variance for M = 1), or nothing to measure.
struct StatisticsNoise {
  double mean, variance;
};

/// Of groups of M drawn without replacement from the n samples of the population; exact for any M
/// and n (Cochran, Sampling techniques, 3rd edition, theorem 2.2; Tukey, "Some moment calculations
/// made easy", 1950, by polykays):
///   Var(mean)     = σ² (n−M) / (M (n−1))
///   Var(variance) = (1/M − 1/n) K₄ + 2 (1/(M−1) − 1/(n−1)) K₂₂
/// with the population's k-statistics K₂, K₄ and K₂₂ = (K₂² − K₄/n)(n−1)/(n+1). For n → ∞ the
/// latter is σ⁴ (κ − (M−3)/(M−1))/M, and to first order in 1/M the (κ−1)/M of a large group.
StatisticsNoise noise_theory(const UnitMoments& population, int64_t m);

/// The same as measured: over the groups that were added, about the population's own moments.
class NoiseMeter {
 public:
  explicit NoiseMeter(const UnitMoments& population);
  /// rows (M, C); the same M each time.
  void add(const at::Tensor& rows);
  StatisticsNoise noise() const;

 private:
  const UnitMoments& population_;
  at::Tensor of_mean_, of_variance_;  // (C): sums of squared deviations
  int64_t groups_ = 0;
};

/// ‖dx‖² σ² / (γ² ‖dy‖²) of each group and unit, (G, C): what batch norm's backward pass makes of a
/// gradient, over what an affine map with the population's σ would. NaN where dy or γ is 0.
/// dy, dx (rows, C): at the layer's output and input; gamma and variance (σ²) (C).
at::Tensor backward_gain(const at::Tensor& dy, const at::Tensor& dx,
                         const std::vector<Range>& groups, const at::Tensor& gamma,
                         const at::Tensor& variance);

/// The quantile of all finite values, interpolated linearly between neighbours as at::quantile
/// does, for any number of them; NaN if there are none.
double quantile_of(const at::Tensor& values, double q);

/// Σ t² of a tensor of any kind on any device.
double square_norm(const at::Tensor& t);

/// Mean over the units that are alive; NaN if none is.
double mean_alive(const at::Tensor& values, const at::Tensor& alive);

}  // namespace syncbn
