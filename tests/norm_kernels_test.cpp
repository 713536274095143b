// The passes of batch norm against plain double-precision formulas, autograd and known facts.
#include "nn/norm_kernels.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "base/random.hpp"
#include "nn/norm_loops.hpp"
#include "support/mpi_main.hpp"
#include "support/reference.hpp"

namespace syncbn {
namespace {

using test::relative_difference;

constexpr bool kTogether = false;

at::TensorOptions on_device(at::ScalarType dtype = at::kDouble) {
  return at::device(test_device()).dtype(dtype);
}

/// Not initialised, on the tested device.
at::Tensor empty(at::IntArrayRef sizes) {
  return torch::empty(sizes, on_device());
}

at::Tensor normals(int64_t n, int64_t c, uint64_t stream, at::ScalarType dtype = at::kDouble) {
  const RandomStream random(5, Stream::kSynthetic, stream);
  at::Tensor t = torch::empty({n, c}, at::kDouble);
  for (int64_t i = 0; i < t.numel(); ++i) {
    t.mutable_data_ptr<double>()[i] = random.normal(static_cast<uint64_t>(i));
  }
  return t.to(on_device(dtype));
}

at::Tensor stats_of(const at::Tensor& x, const std::vector<Range>& rows) {
  at::Tensor stats = empty({static_cast<int64_t>(rows.size()), 2 * x.size(1) + 1});
  moments(x, rows, kTogether, stats);
  return stats;
}

/// (1, 2C+1): the moments of all parts together.
at::Tensor folded_of(const at::Tensor& parts) {
  at::Tensor folded = torch::zeros({1, parts.size(1)}, parts.options());
  for (int64_t p = 0; p < parts.size(0); ++p) merge_moments(parts, p, folded, 0);
  return folded;
}

at::Tensor variance_of(const at::Tensor& stats, int64_t c) {
  return stats.narrow(1, 1 + c, c) / stats.narrow(1, 0, 1);
}

constexpr Activation kActivations[] = {Activation::kNone, Activation::kRelu, Activation::kSigmoid,
                                       Activation::kTanh};

at::Tensor applied(Activation activation, const at::Tensor& x) {
  return activation == Activation::kRelu      ? x.relu()
         : activation == Activation::kSigmoid ? x.sigmoid()
         : activation == Activation::kTanh    ? x.tanh()
                                              : x;
}

// f(x) for every x, by the loop that normalises; in rows of `columns`, all in one call.
template <class T>
std::vector<T> activated(Activation activation, const std::vector<T>& x, int64_t columns) {
  const std::vector<double> one(static_cast<size_t>(columns), 1.0), zero(one.size(), 0.0);
  std::vector<T> y(x.size());
  loops::affine(x.data(), {static_cast<int64_t>(x.size()) / columns, columns, columns}, one.data(),
                zero.data(), activation, y.data());
  return y;
}

// Numbers of every size, in sign and exponent; the smallest and largest are no normal results.
template <class T>
std::vector<T> numbers_of_every_size() {
  std::vector<T> x;
  const RandomStream random(5, Stream::kSynthetic, 77);
  const double largest = sizeof(T) == 4 ? 87 : 708;
  for (uint64_t i = 0; i < 640 * 300; ++i) {
    const double u = 2 * random.uniform(i) - 1;
    const double sizes[] = {u * largest, u * 3,
                            std::copysign(std::pow(10.0, -12 * std::abs(u)), u)};
    x.push_back(static_cast<T>(sizes[i % 3]));
  }
  return x;
}

// Against the library's functions in long double; the errors found are 2.4 and 2.5 units in the
// last place.
template <class T>
void expect_exact() {
  const std::vector<T> x = numbers_of_every_size<T>();
  for (const Activation activation : {Activation::kSigmoid, Activation::kTanh}) {
    const std::vector<T> y = activated(activation, x, 640);
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const long double in = x[i];
      const long double exact =
          activation == Activation::kTanh ? std::tanh(in) : 1 / (1 + std::exp(-in));
      int exponent = 0;
      std::frexp(exact, &exponent);
      const long double unit = std::ldexp(1.0L, exponent - std::numeric_limits<T>::digits);
      worst = std::max(worst, static_cast<double>(std::abs(y[i] - exact) / unit));
    }
    EXPECT_LE(worst, 3) << static_cast<int>(activation);
    EXPECT_GT(worst, 0);
  }
}

TEST(Activations, AreExactToThreeUnits) {
  expect_exact<float>();
  expect_exact<double>();
}

template <class T>
void expect_limits() {
  constexpr T kInfinity = std::numeric_limits<T>::infinity(),
              kLargest = std::numeric_limits<T>::max();
  const std::vector<T> x = {kInfinity, -kInfinity, kLargest, -kLargest, 0};
  EXPECT_EQ(activated(Activation::kSigmoid, x, 5), (std::vector<T>{1, 0, 1, 0, T(0.5)}));
  EXPECT_EQ(activated(Activation::kTanh, x, 5), (std::vector<T>{1, -1, 1, -1, 0}));
  for (const Activation activation : kActivations) {
    for (const T v :
         activated(activation, std::vector<T>(19, std::numeric_limits<T>::quiet_NaN()), 19)) {
      EXPECT_TRUE(std::isnan(v)) << static_cast<int>(activation);
    }
  }
}

TEST(Activations, SaturateAndPassNaN) {
  expect_limits<float>();
  expect_limits<double>();
}

// One column at a time, which no vector holds, against rows of 640: the same bits.
TEST(Activations, AreTheSameBitsInVectorsAndTails) {
  for (const Activation activation : kActivations) {
    EXPECT_EQ(activated(activation, numbers_of_every_size<float>(), 640),
              activated(activation, numbers_of_every_size<float>(), 1));
    EXPECT_EQ(activated(activation, numbers_of_every_size<double>(), 640),
              activated(activation, numbers_of_every_size<double>(), 1));
  }
}

// A NaN in the gradient, or in one column of x, does not get lost on the way to dx.
TEST(Passes, NaNPassesThroughTheBackwardOfAnActivation) {
  const int64_t n = 8, c = 21;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const Activation activation : kActivations) {
    for (const bool in_gradient : {true, false}) {
      SCOPED_TRACE(concat("activation ", static_cast<int>(activation), ", in dy ", in_gradient));
      at::Tensor x = normals(n, c, 11), upstream = normals(n, c, 12);
      if (!in_gradient) x[3][c - 1] = nan;
      const at::Tensor stats = stats_of(x, {{0, n}});
      at::Tensor y = torch::empty_like(x), dx = torch::empty_like(x);
      const at::Tensor gamma = torch::ones({c}, at::kDouble);
      normalise(x, {{0, n}}, stats, gamma, gamma * 0.1, 1e-5, activation, y);
      if (in_gradient) upstream[y.select(1, c - 1).argmax()][c - 1] = nan;  // where y > 0
      at::Tensor dy = upstream.clone(), sums = torch::empty({1, 2 * c}, at::kDouble);
      backward_sums(x, y, dy, {{0, n}}, stats, 1e-5, activation, kTogether, sums);
      input_gradient(x, dy, {{0, n}}, stats, sums, gamma, 1e-5, dx);
      EXPECT_TRUE(dx.select(1, c - 1).isnan().all().item<bool>());
      EXPECT_TRUE(sums[0][2 * c - 1].isnan().item<bool>());
      EXPECT_FALSE(dx.narrow(1, 0, c - 1).isnan().any().item<bool>());
      if (!in_gradient && activation == Activation::kRelu) {  // neither > 0 nor ≤ 0: not masked
        EXPECT_TRUE(torch::equal(dy.select(1, c - 1), upstream.select(1, c - 1)));
      }
    }
  }
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
    at::Tensor x = torch::full({257, 3}, 0.1, on_device(dtype));
    x.select(1, 1).fill_(1e6 / 3);
    x.select(1, 2).zero_();
    const std::vector<Range> rows = {{0, 100}, {100, 257}};
    const at::Tensor stats = stats_of(x, rows), folded = folded_of(stats);
    for (const at::Tensor& s : {stats, folded}) {
      EXPECT_TRUE(variance_of(s, 3).isfinite().all().item<bool>());
      EXPECT_GE(variance_of(s, 3).min().item<double>(), 0);
      EXPECT_LE(variance_of(s, 3).max().item<double>(), 1e-9);
    }
    at::Tensor y = torch::empty_like(x);
    normalise(x, {{0, 257}}, folded, torch::ones({3}, on_device(dtype)),
              torch::zeros({3}, on_device(dtype)), 1e-5, Activation::kNone, y);
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
    EXPECT_LE(relative_difference(folded_of(stats_of(x, rows))[0], whole[0]), 1e-13);
  }
}

// Pieces of different sizes, forward and backward, against autograd over each piece.
TEST(Passes, EqualAutogradPieceByPiece) {
  for (const int64_t c : {1, 7, 64, 65, 200}) {
    for (const Activation activation : kActivations) {
      SCOPED_TRACE(concat(c, " features, activation ", static_cast<int>(activation)));
      const std::vector<Range> rows = {{0, 5}, {5, 29}, {29, 40}};
      const at::Tensor x = normals(40, c, 3).cpu().set_requires_grad(true);
      const at::Tensor gamma = (normals(1, c, 4)[0] + 2).cpu().detach().set_requires_grad(true);
      const at::Tensor beta = normals(1, c, 5)[0].cpu().detach().set_requires_grad(true);
      const at::Tensor upstream = normals(40, c, 6);
      std::vector<at::Tensor> parts;
      for (const Range r : rows) {
        parts.push_back(torch::batch_norm(x.narrow(0, r.begin, r.size()), gamma, beta, {}, {}, true,
                                          0, 1e-5, false));
      }
      at::Tensor expected = torch::cat(parts);
      expected = applied(activation, expected);
      expected.backward(upstream.cpu());

      const at::Tensor data = x.detach().to(test_device());
      const at::Tensor weight = gamma.detach().to(test_device());
      const at::Tensor bias = beta.detach().to(test_device());
      at::Tensor stats = stats_of(data, rows), y = torch::empty_like(data);
      normalise(data, rows, stats, weight, bias, 1e-5, activation, y);
      EXPECT_LE(relative_difference(y, expected), 1e-12);
      at::Tensor dy = upstream.clone(), dx = torch::empty_like(data);
      at::Tensor sums = empty({3, 2 * c});
      backward_sums(data, y, dy, rows, stats, 1e-5, activation, kTogether, sums);
      input_gradient(data, dy, rows, stats, sums, weight, 1e-5, dx);
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
  normalise(x, {{0, 512}}, stats, torch::ones({9}, on_device()), torch::zeros({9}, on_device()),
            eps, Activation::kNone, y);
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
    at::Tensor sums = empty({1, 2 * groups});
    backward_sums(x, x, dy, {{0, m}}, stats, 1e-5, Activation::kNone, kTogether, sums);
    input_gradient(x, dy, {{0, m}}, stats, sums, torch::ones({groups}, on_device()), 1e-5, dx);
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

TEST(WeightedSums, RoundOnceRunByRun) {
  const at::Tensor table = normals(3, 10, 9);
  at::Tensor parts = torch::empty({3, 4}, on_device(at::kFloat));
  weighted_sums(table, 5, {0.5, 0.25, 2}, {{0, 2}, {2, 2}, {2, 3}}, parts);
  const at::Tensor first = table[0] * 0.5 + table[1] * 0.25, last = table[2] * 2;
  EXPECT_TRUE(torch::equal(parts[0], first.narrow(0, 5, 4).to(at::kFloat)));
  EXPECT_EQ(parts[1].abs().max().item<double>(), 0);
  EXPECT_TRUE(torch::equal(parts[2], last.narrow(0, 5, 4).to(at::kFloat)));
}

TEST(Passes, RefuseWhatTheyCannotTake) {
  at::Tensor stats = torch::empty({1, 7}, at::kDouble);
  EXPECT_THROW(moments(torch::zeros({2, 3}, at::kHalf), {{0, 2}}, kTogether, stats), Error);
  EXPECT_THROW(moments(torch::zeros({3, 2}).t(), {{0, 2}}, kTogether, stats), Error);
  EXPECT_THROW(moments(torch::zeros({2, 3, 4}), {{0, 2}}, kTogether, stats), Error);
}

}  // namespace
}  // namespace syncbn
