// The passes of batch norm against plain double-precision formulas, autograd and known facts.
#include "nn/norm_kernels.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "base/random.hpp"
#include "support/reference.hpp"

namespace syncbn {
namespace {

using test::relative_difference;

at::Tensor normals(int64_t n, int64_t c, uint64_t stream, at::ScalarType dtype = at::kDouble) {
  const RandomStream random(5, Stream::kSynthetic, stream);
  at::Tensor t = torch::empty({n, c}, at::kDouble);
  for (int64_t i = 0; i < t.numel(); ++i) {
    t.mutable_data_ptr<double>()[i] = random.normal(static_cast<uint64_t>(i));
  }
  return t.to(dtype);
}

at::Tensor stats_of(const at::Tensor& x, const std::vector<Range>& rows) {
  at::Tensor stats =
      torch::empty({static_cast<int64_t>(rows.size()), 2 * x.size(1) + 1}, at::kDouble);
  moments(x, rows, stats);
  return stats;
}

at::Tensor variance_of(const at::Tensor& stats, int64_t c) {
  return stats.narrow(1, 1 + c, c) / stats.narrow(1, 0, 1);
}

// Mean 1e4 times the deviation, in float: the exact variance is that of the float values in double.
TEST(Moments, KeepTheirDigitsFarFromZero) {
  const int64_t n = 4096, c = 70;
  for (const double ratio : {1e3, 1e4}) {
    const at::Tensor x = (normals(n, c, 1) + ratio).to(at::kFloat);
    const at::Tensor exact = x.to(at::kDouble).var(0, /*unbiased=*/false);
    EXPECT_LE(relative_difference(variance_of(stats_of(x, {{0, n}}), c)[0], exact), 1e-5);
    // The formula that is not allowed, so that the bound is known to bite.
    const at::Tensor naive = (x * x).mean(0) - x.mean(0).square();
    EXPECT_GT(relative_difference(naive, exact), 1e-3);
  }
}

TEST(Moments, ConstantColumnIsFiniteAndNotNegative) {
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    at::Tensor x = torch::full({257, 3}, 0.1, dtype);
    x.select(1, 1).fill_(1e6 / 3);
    x.select(1, 2).zero_();
    const std::vector<Range> rows = {{0, 100}, {100, 257}};
    at::Tensor stats = stats_of(x, rows), folded = torch::empty({1, 7}, at::kDouble);
    fold_moments(stats.unsqueeze(1), folded);
    for (const at::Tensor& s : {stats, folded}) {
      EXPECT_TRUE(variance_of(s, 3).isfinite().all().item<bool>());
      EXPECT_GE(variance_of(s, 3).min().item<double>(), 0);
      EXPECT_LE(variance_of(s, 3).max().item<double>(), 1e-9);
    }
    at::Tensor y = torch::empty_like(x);
    normalise(x, {{0, 257}}, folded, torch::ones({3}, dtype), torch::zeros({3}, dtype), 1e-5, false,
              y);
    EXPECT_TRUE(y.isfinite().all().item<bool>());
    EXPECT_LE(y.abs().max().item<double>(), 1e-3);
  }
}

// Any cut of the rows, empty parts included, folds to the moments of the whole.
TEST(Moments, FoldOfAnyCutIsTheWhole) {
  const int64_t n = 200, c = 5;
  const at::Tensor x = normals(n, c, 2) * 3 + 50;
  const at::Tensor whole = stats_of(x, {{0, n}});
  const RandomStream random(6, Stream::kSynthetic, 0);
  for (uint64_t trial = 0; trial < 200; ++trial) {
    std::vector<int64_t> cuts = {0, n};
    for (uint64_t k = 0; k < 6; ++k) {
      cuts.push_back(
          static_cast<int64_t>(random.below(static_cast<uint64_t>(n) + 1, trial * 6 + k)));
    }
    std::sort(cuts.begin(), cuts.end());
    std::vector<Range> rows;
    for (size_t k = 0; k + 1 < cuts.size(); ++k) rows.push_back({cuts[k], cuts[k + 1]});
    at::Tensor folded = torch::empty({1, 2 * c + 1}, at::kDouble);
    fold_moments(stats_of(x, rows).unsqueeze(1), folded);
    EXPECT_LE(relative_difference(folded[0], whole[0]), 1e-13);
  }
}

// Pieces of different sizes, forward and backward, against autograd over each piece.
TEST(Passes, EqualAutogradPieceByPiece) {
  for (const int64_t c : {1, 7, 64, 65, 200}) {
    for (const bool relu : {false, true}) {
      SCOPED_TRACE(concat(c, " features, relu ", relu));
      const std::vector<Range> rows = {{0, 5}, {5, 29}, {29, 40}};
      const at::Tensor x = normals(40, c, 3).set_requires_grad(true);
      const at::Tensor gamma = (normals(1, c, 4)[0] + 2).detach().set_requires_grad(true);
      const at::Tensor beta = normals(1, c, 5)[0].detach().set_requires_grad(true);
      const at::Tensor upstream = normals(40, c, 6);
      std::vector<at::Tensor> parts;
      for (const Range r : rows) {
        parts.push_back(torch::batch_norm(x.narrow(0, r.begin, r.size()), gamma, beta, {}, {}, true,
                                          0, 1e-5, false));
      }
      at::Tensor expected = torch::cat(parts);
      if (relu) expected = expected.relu();
      expected.backward(upstream);

      const at::Tensor data = x.detach();
      at::Tensor stats = stats_of(data, rows), y = torch::empty_like(data);
      normalise(data, rows, stats, gamma.detach(), beta.detach(), 1e-5, relu, y);
      EXPECT_LE(relative_difference(y, expected), 1e-12);
      at::Tensor dy = upstream.clone(), dx = torch::empty_like(data);
      at::Tensor sums = torch::empty({3, 2 * c}, at::kDouble);
      backward_sums(data, y, dy, rows, stats, 1e-5, relu, sums);
      input_gradient(data, dy, rows, stats, sums, gamma.detach(), 1e-5, dx);
      EXPECT_LE(relative_difference(dx, x.grad()), 1e-11);
      EXPECT_LE(relative_difference(sums.sum(0).narrow(0, 0, c), beta.grad()), 1e-12);
      EXPECT_LE(relative_difference(sums.sum(0).narrow(0, c, c), gamma.grad()), 1e-12);
    }
  }
}

// x̂ has mean 0 and variance σ²/(σ²+ε).
TEST(Passes, NormalisedVariance) {
  const at::Tensor x = normals(512, 9, 7) * 0.01;
  const at::Tensor stats = stats_of(x, {{0, 512}});
  at::Tensor y = torch::empty_like(x);
  const double eps = 1e-5;
  normalise(x, {{0, 512}}, stats, torch::ones({9}, at::kDouble), torch::zeros({9}, at::kDouble),
            eps, false, y);
  const at::Tensor variance = variance_of(stats, 9)[0];
  EXPECT_LE(y.mean(0).abs().max().item<double>(), 1e-12);
  EXPECT_LE(relative_difference(y.var(0, false), variance / (variance + eps)), 1e-12);
}

// BN removes the directions 1 and x̂ from the gradient: of an isotropic one (M−2)/M is kept.
TEST(Passes, BackwardKeepsTheExpectedEnergy) {
  const int64_t groups = 12000;
  for (const int64_t m : {2, 3, 4, 8, 16, 32}) {
    const at::Tensor x = normals(m, groups, static_cast<uint64_t>(m)) * 100;  // each column a group
    const at::Tensor upstream = normals(m, groups, 100 + static_cast<uint64_t>(m));
    const at::Tensor stats = stats_of(x, {{0, m}});
    at::Tensor dy = upstream.clone(), dx = torch::empty_like(x);
    at::Tensor sums = torch::empty({1, 2 * groups}, at::kDouble);
    backward_sums(x, x, dy, {{0, m}}, stats, 1e-5, false, sums);
    input_gradient(x, dy, {{0, m}}, stats, sums, torch::ones({groups}, at::kDouble), 1e-5, dx);
    const at::Tensor deviation = (variance_of(stats, groups)[0] + 1e-5).sqrt();
    const double kept = ((dx * deviation).square().sum() / upstream.square().sum()).item<double>();
    EXPECT_NEAR(kept, static_cast<double>(m - 2) / static_cast<double>(m), m == 2 ? 5e-3 : 0.01)
        << m;
  }
}

// One thread or two: the same bits, because a column is summed by one thread.
TEST(Passes, ThreadsChangeNothing) {
  const at::Tensor x = normals(3000, 300, 8, at::kFloat);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = stats_of(x, {{0, 1000}, {1000, 3000}});
  at::set_num_threads(2);
  const at::Tensor two = stats_of(x, {{0, 1000}, {1000, 3000}});
  at::set_num_threads(threads);
  EXPECT_TRUE(torch::equal(one, two));
}

TEST(WeightedSum, RoundsOnce) {
  const at::Tensor table = normals(3, 10, 9);
  at::Tensor out = torch::empty({4}, at::kFloat);
  weighted_sum(table, 5, {0.5, 0.25, 2}, out);
  const at::Tensor expected =
      (table[0] * 0.5 + table[1] * 0.25 + table[2] * 2).narrow(0, 5, 4).to(at::kFloat);
  EXPECT_TRUE(torch::equal(out, expected));
}

TEST(Passes, RefuseWhatTheyCannotTake) {
  at::Tensor stats = torch::empty({1, 7}, at::kDouble);
  EXPECT_THROW(moments(torch::zeros({2, 3}, at::kHalf), {{0, 2}}, stats), Error);
  EXPECT_THROW(moments(torch::zeros({3, 2}).t(), {{0, 2}}, stats), Error);
  EXPECT_THROW(moments(torch::zeros({2, 3, 4}), {{0, 2}}, stats), Error);
}

}  // namespace
}  // namespace syncbn
