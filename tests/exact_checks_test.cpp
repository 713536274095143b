// The exact checks E1 to E8, which must pass before any study says anything: by name, where no
// other test makes them, and where else they are:
//   E1  sync BN is one process with the whole batch      Central.SyncEqualsOneProcessIn…,
//                                                        Central.EmptySharesTakePart,
//                                                        golden_sync_bn
//   E2  local and group BN are ghost BN in one process   Central.AnyNormBatchEqualsItsGroups…
//   E3  finite differences through sync BN               Central.NumericalGradientAcrossRanks
//   E4  energy that the backward pass keeps              Passes.BackwardKeepsTheExpectedEnergy;
//       and its gain                                     here
//   E5  variance far from zero, constant columns         Moments.KeepTheirDigitsFarFromZero,
//                                                        Moments.ConstantColumnIsFiniteAnd…
//   E6  running variance by m/(m−1), global m            Central.SyncEqualsOneProcessInDouble;
//       equal replicas after 100 steps                   here
//   E7  weight of the initial running statistics         here (there is no accumulation of steps)
//   E8  mean and variance of x̂                           Passes.NormalisedVariance
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/random.hpp"
#include "nn/norm_kernels.hpp"
#include "study/unit_statistics.hpp"
#include "support/training.hpp"

namespace syncbn {
namespace {

at::Tensor normals(int64_t rows, int64_t columns, uint64_t index) {
  const RandomStream random(5, Stream::kSynthetic, index);
  at::Tensor t = at::empty({rows, columns}, at::kDouble);
  for (int64_t i = 0; i < t.numel(); ++i) {
    t.data_ptr<double>()[i] = random.normal(static_cast<uint64_t>(i));
  }
  return t;
}

// Gaussian units of variance 1, isotropic gradients, each column a group: E gain = (M−2)/(M−3),
// which is infinite for M ≤ 3 and has a finite variance from M = 8 on.
TEST(ExactChecks, E4GainOfTheBackwardPass) {
  constexpr int64_t kGroups = 20000;
  const at::Tensor ones = at::ones({kGroups}, at::kDouble);
  for (const int64_t m : {2, 8, 16, 32}) {
    SCOPED_TRACE(m);
    const std::vector<Range> rows = {{0, m}};
    const auto index = static_cast<uint64_t>(m);
    const at::Tensor x = normals(m, kGroups, index);
    at::Tensor dy = normals(m, kGroups, 100 + index), dx = at::empty_like(x);
    at::Tensor stats = at::empty({1, 2 * kGroups + 1}, at::kDouble);
    at::Tensor sums = at::empty({1, 2 * kGroups}, at::kDouble);
    moments(x, rows, /*alone=*/false, stats);
    backward_sums(x, x, dy, rows, stats, 1e-5, Activation::kNone, /*alone=*/false, sums);
    input_gradient(x, dy, rows, stats, sums, ones, 1e-5, dx);
    const at::Tensor gain = backward_gain(dy, dx, rows, ones, ones);
    if (m == 2) {
      EXPECT_LE(quantile_of(gain, 0.5), 1e-6);
    } else {
      const double expected = static_cast<double>(m - 2) / static_cast<double>(m - 3);
      EXPECT_NEAR(gain.mean().item<double>() / expected, 1, 0.03);
    }
  }
}

TEST(ExactChecks, E6ReplicasAreEqualAfterAHundredSteps) {
  for (const char* reduce : {"canonical", "fast"}) {
    const Job job =
        job_with({{"run.reduce", reduce}, {"run.dtype", "float32"}, {"train.epochs", "10"}});
    Trainer trainer = job.trainer();
    train(trainer, 10);
    EXPECT_EQ(trainer.step(), 100);
    EXPECT_NO_THROW(trainer.replica().check_equal());
  }
}

// Running statistics take no part in training, so two trainings that begin with other ones differ
// in them alone: by the weight of the first ones.
TEST(ExactChecks, E7WeightOfTheInitialRunningStatistics) {
  for (const double momentum : {0.1, 0.01}) {
    const Job job = job_with({{"norm.momentum", std::to_string(momentum)}});
    Trainer trainer = job.trainer(), moved = job.trainer();
    std::vector<at::Tensor> statistics = moved.running_statistics();
    for (at::Tensor& of_layer : statistics) of_layer += 1;
    moved.set_running_statistics(statistics);
    train(trainer);
    train(moved);
    const double weight = std::pow(1 - momentum, 20);
    for (size_t i = 0; i < statistics.size(); ++i) {
      const at::Tensor left = moved.running_statistics()[i] - trainer.running_statistics()[i];
      EXPECT_LE((left - weight).abs().max().item<double>(), 1e-12);
    }
  }
}

}  // namespace
}  // namespace syncbn
