#include "study/unit_statistics.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.hpp"
#include "nn/one_thread.hpp"

namespace syncbn {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

void check_matrix(const at::Tensor& x) {
  SYNCBN_CHECK(x.dim() == 2 && x.is_cpu() && x.scalar_type() == at::kDouble,
               "expected a float64 matrix on the CPU, found ", x.sizes(), " of ", x.dtype());
}

// What is left of σ² when the divisor is n−1.
at::Tensor unbiased(const UnitMoments& population) {
  const auto n = static_cast<double>(population.samples);
  return population.variance * (n / (n - 1));
}

// Var(variance of M) of each unit.
at::Tensor variance_of_variance(const UnitMoments& population, double m) {
  const auto n = static_cast<double>(population.samples);
  const at::Tensor m2 = population.variance.square(), k2 = unbiased(population).square();
  const at::Tensor k4 = (population.kurtosis * ((n + 1) * m2) - 3 * (n - 1) * m2) *
                        (n * n / ((n - 1) * (n - 2) * (n - 3)));
  const at::Tensor k22 = (k2 - k4 / n) * ((n - 1) / (n + 1));
  return k4 * (1 / m - 1 / n) + k22 * (2 * (1 / (m - 1) - 1 / (n - 1)));
}

}  // namespace

UnitMoments unit_moments(const at::Tensor& x) {
  check_matrix(x);
  const OneThread one_thread;
  UnitMoments moments;
  moments.samples = x.size(0);
  moments.mean = x.mean(0);
  const at::Tensor squares = (x - moments.mean).square_();
  moments.variance = squares.mean(0);
  moments.kurtosis = squares.square().mean(0) / moments.variance.square();
  moments.alive = x.amax(0) > x.amin(0);
  return moments;
}

StatisticsNoise noise_theory(const UnitMoments& population, int64_t m) {
  constexpr int64_t kFewest = 4;  // that a fourth k-statistic needs
  const auto n = static_cast<double>(population.samples), samples = static_cast<double>(m);
  if (m < 1 || m > population.samples || !population.alive.any().item<bool>()) {
    return {kNone, kNone};
  }
  const OneThread one_thread;
  StatisticsNoise noise = {(n - samples) / (samples * (n - 1)), kNone};
  if (m >= 2 && population.samples >= kFewest) {
    noise.variance = mean_alive(
        variance_of_variance(population, samples) / population.variance.square(), population.alive);
  }
  return noise;
}

NoiseMeter::NoiseMeter(const UnitMoments& population)
    : population_(population),
      of_mean_(at::zeros_like(population.mean)),
      of_variance_(at::zeros_like(population.mean)) {}

void NoiseMeter::add(const at::Tensor& rows) {
  check_matrix(rows);
  const OneThread one_thread;
  const at::Tensor mean = rows.mean(0);
  of_mean_ += (mean - population_.mean).square_();
  const at::Tensor variance =
      (rows - mean).square_().sum(0) / static_cast<double>(rows.size(0) - 1);  // M = 1: NaN
  of_variance_ += (variance - unbiased(population_)).square_();
  ++groups_;
}

StatisticsNoise NoiseMeter::noise() const {
  if (groups_ == 0) return {kNone, kNone};
  const OneThread one_thread;
  const auto groups = static_cast<double>(groups_);
  const at::Tensor &variance = population_.variance, &alive = population_.alive;
  return {mean_alive(of_mean_ / variance, alive) / groups,
          mean_alive(of_variance_ / variance.square(), alive) / groups};
}

at::Tensor backward_gain(const at::Tensor& dy, const at::Tensor& dx,
                         const std::vector<Range>& groups, const at::Tensor& gamma,
                         const at::Tensor& variance) {
  check_matrix(dy);
  check_matrix(dx);
  const OneThread one_thread;
  const auto energy = [&](const at::Tensor& gradient) {
    std::vector<at::Tensor> sums;
    sums.reserve(groups.size());
    for (const Range rows : groups) {
      sums.push_back(gradient.narrow(0, rows.begin, rows.size()).square().sum(0));
    }
    return at::stack(sums);
  };
  const at::Tensor below = energy(dy) * gamma.square();
  const at::Tensor gain = energy(dx) * variance / below;
  return gain.masked_fill(below.eq(0), kNone);
}

double quantile_of(const at::Tensor& values, double q) {
  const at::Tensor flat = values.contiguous();
  SYNCBN_CHECK(flat.is_cpu() && flat.scalar_type() == at::kDouble, "found ", flat.dtype());
  std::vector<double> finite;
  const auto* first = flat.const_data_ptr<double>();
  std::copy_if(first, first + flat.numel(), std::back_inserter(finite),
               [](double value) { return std::isfinite(value); });
  if (finite.empty()) return kNone;
  const double place = q * static_cast<double>(finite.size() - 1);
  const auto below = finite.begin() + static_cast<int64_t>(place);
  std::nth_element(finite.begin(), below, finite.end());
  if (below + 1 == finite.end()) return *below;
  const double next = *std::min_element(below + 1, finite.end());
  return *below + (place - std::floor(place)) * (next - *below);
}

double square_norm(const at::Tensor& t) {
  const OneThread one_thread;
  return t.to(at::kDouble).square().sum().item<double>();
}

double mean_alive(const at::Tensor& values, const at::Tensor& alive) {
  const at::Tensor chosen = values.masked_select(alive);
  return chosen.numel() == 0 ? kNone : chosen.mean().item<double>();
}

}  // namespace syncbn
