// Gradients of gradients through syncbn::SyncBatchNorm on the shares of a batch, against
// torch::nn::BatchNorm on the whole batch in one process, against batch norm written out in plain
// operations, and against finite differences of first gradients.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "comm/reduce_gradients.hpp"
#include "nn/sum_over_ranks.hpp"
#include "nn/sync_batch_norm.hpp"
#include "support/batch_shares.hpp"
#include "support/close.hpp"

namespace syncbn {
namespace {

using torch::autograd::grad;
using torch::nn::BatchNormOptions;

constexpr double kTight = 1e-11;

SyncBatchNorm make_norm(int64_t features) {
  SyncBatchNorm norm(BatchNormOptions(features), world());
  norm->to(test_device(), torch::kDouble);
  return norm;
}

template <class Norm>
void set_parameters(Norm& norm, int seed) {
  const torch::NoGradGuard no_gradient;
  const int64_t features = norm->weight.size(0);
  norm->weight.copy_(same_everywhere(seed, {features}, 1));
  norm->bias.copy_(same_everywhere(seed + 1, {features}));
}

// The example of a public report (pytorch/pytorch#61222 and its like): a penalty on the gradient of
// Σ bn(tanh(x·a))³. The right values are BatchNorm1d's in PyTorch 2.11, and those of finite
// differences.
TEST(SyncBatchNormDerivative, APenaltyHasTheValuesOfThePublicReport) {
  const at::Tensor whole = torch::tensor({{1., 2.}, {3., 5.}, {-1., 0.}, {2., 7.}}, torch::kDouble);
  for (const Cut& cut : cuts()) {
    SCOPED_TRACE(cut.name);
    const at::Tensor x = own_input(whole, cut).clone().requires_grad_();
    const at::Tensor a = torch::tensor({.3, .2}, torch::kDouble).to(test_device()).requires_grad_();
    SyncBatchNorm norm = make_norm(2);
    const at::Tensor y = norm->forward(torch::tanh(x * a));
    const at::Tensor g = grad({y.pow(3).sum()}, {x}, {}, true, /*create_graph=*/true)[0];
    const at::Tensor penalty = g.square().sum();
    penalty.backward();
    const auto expected = [](double first, double second) {
      return torch::tensor({first, second}, torch::kDouble);
    };
    expect_close(summed(penalty), torch::tensor(10.5425, torch::kDouble), 1e-5, "penalty");
    expect_close(summed(a.grad()), expected(-14.15550789, 15.59434694), 1e-9, "a.grad");
    expect_close(summed(norm->weight.grad()), expected(43.26861783, 19.98639585), 1e-9, "dγ");
  }
}

/// A critic with two norm layers, of 2-D or 4-D inputs.
template <class MakeNorm>
torch::nn::Sequential make_critic(bool image, MakeNorm&& norm) {
  torch::manual_seed(5);
  torch::nn::Sequential critic;
  if (image) {
    critic->push_back(torch::nn::Conv2d(torch::nn::Conv2dOptions(2, 4, 3).padding(1)));
    critic->push_back(norm(4));
    critic->push_back(torch::nn::Tanh());
    critic->push_back(torch::nn::Conv2d(torch::nn::Conv2dOptions(4, 3, 2)));
    critic->push_back(norm(3));
  } else {
    critic->push_back(torch::nn::Linear(6, 4));
    critic->push_back(norm(4));
    critic->push_back(torch::nn::Tanh());
    critic->push_back(torch::nn::Linear(4, 3));
    critic->push_back(norm(3));
  }
  critic->push_back(torch::nn::Sigmoid());
  critic->push_back(torch::nn::Flatten());
  critic->push_back(torch::nn::Linear(image ? 3 * 2 * 3 : 3, 1));
  critic->to(torch::kDouble);
  return critic;
}

/// Gulrajani et al., "Improved training of Wasserstein GANs" (2017), equation 3, on the samples x:
/// this rank's part of the critic's mean plus 10 · the mean of (‖∂critic/∂x‖ − 1)².
at::Tensor critic_loss(torch::nn::Sequential& critic, const at::Tensor& x, int64_t samples) {
  const at::Tensor score = critic->forward(x);
  const at::Tensor g = grad({score.sum()}, {x}, {}, true, /*create_graph=*/true)[0];
  const at::Tensor norm = (g.flatten(1).square().sum(1) + 1e-12).sqrt();
  return (score.sum() + 10 * (norm - 1).square().sum()) / static_cast<double>(samples);
}

void compare_critics(bool image, const Cut& cut) {
  constexpr int64_t kSamples = 13;
  const std::vector<int64_t> sizes =
      image ? std::vector<int64_t>{kSamples, 2, 3, 4} : std::vector<int64_t>{kSamples, 6};
  auto critic = make_critic(image, [](int64_t c) { return make_norm(c); });
  critic->to(test_device());
  auto whole = [&] {
    if (image) return make_critic(image, [](int64_t c) { return torch::nn::BatchNorm2d(c); });
    return make_critic(image, [](int64_t c) { return torch::nn::BatchNorm1d(c); });
  }();
  for (int step = 0; step < 2; ++step) {
    const at::Tensor x = same_everywhere(step, sizes).requires_grad_();
    const at::Tensor own = own_input(x, cut).detach().requires_grad_();
    const at::Tensor expected = critic_loss(whole, x, kSamples);
    const at::Tensor loss = critic_loss(critic, own, kSamples);
    whole->zero_grad();
    critic->zero_grad();
    expected.backward();
    loss.backward();
    reduce_gradients(critic->parameters(), world());
    expect_close(summed(loss), expected, kTight, "loss");
    expect_close(own.grad(), own_rows(x.grad(), cut), kTight, "x.grad");
    for (const auto& entry : whole->named_parameters()) {
      const at::Tensor& actual = critic->named_parameters()[entry.key()].grad();
      EXPECT_LE(difference(actual, entry.value().grad()), kTight) << entry.key();
    }
  }
}

TEST(SyncBatchNormDerivative, GradientPenaltyEqualsBatchNormOnTheWholeBatch) {
  for (const Cut& cut : cuts()) {
    for (const bool image : {false, true}) {
      SCOPED_TRACE(testing::Message() << cut.name << ", image " << image);
      compare_critics(image, cut);
    }
  }
}

/// Batch norm in operations that autograd differentiates any number of times.
at::Tensor plain_batch_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const at::Tensor centred = x - x.mean(0);
  return centred / (centred.square().mean(0) + 1e-5).sqrt() * weight + bias;
}

TEST(SyncBatchNormDerivative, ThirdAndFourthDerivativesEqualPlainOperations) {
  const at::Tensor whole = same_everywhere(1, {11, 3}).requires_grad_();
  const at::Tensor weight = same_everywhere(2, {3}, 1).requires_grad_();
  const at::Tensor bias = same_everywhere(3, {3}).requires_grad_();
  for (const Cut& cut : cuts()) {
    SCOPED_TRACE(cut.name);
    SyncBatchNorm norm = make_norm(3);
    set_parameters(norm, 2);
    const at::Tensor x = own_input(whole, cut).detach().requires_grad_();
    at::Tensor y = norm->forward(x), expected = plain_batch_norm(whole, weight, bias);
    at::Tensor loss = y.pow(3).sum(), loss_expected = expected.pow(3).sum();
    for (int order = 1; order <= 4; ++order) {
      const std::string name = "order " + std::to_string(order) + ", d";
      const auto actual = grad({loss}, {x, norm->weight}, {}, true, /*create_graph=*/true);
      const auto right = grad({loss_expected}, {whole, weight}, {}, true, /*create_graph=*/true);
      expect_close(actual[0], own_rows(right[0], cut), 1e-9, name + "x");
      expect_close(summed(actual[1]), right[1], 1e-9, name + "γ");
      loss = actual[0].square().sum() + actual[0].sin().sum();
      loss_expected = right[0].square().sum() + right[0].sin().sum();
    }
  }
}

// No second derivative of anyone's is believed here: only first gradients, by the fast passes.
TEST(SyncBatchNormDerivative, GradientOfAPenaltyEqualsFiniteDifferences) {
  const at::Tensor whole = same_everywhere(1, {9, 3, 2}), along = same_everywhere(2, {9, 3, 2});
  const at::Tensor weight_along = same_everywhere(3, {3}).to(test_device());
  for (const Cut& cut : cuts()) {
    SCOPED_TRACE(cut.name);
    SyncBatchNorm norm = make_norm(3);
    set_parameters(norm, 4);
    const at::Tensor weight = norm->weight.detach().clone();
    const auto penalty_at = [&](double t, bool create_graph) {
      {
        const torch::NoGradGuard no_gradient;
        norm->weight.copy_(weight + t * weight_along);
      }
      const at::Tensor x = own_input(whole + t * along, cut).detach().requires_grad_();
      const at::Tensor y = norm->forward(x);
      const at::Tensor g = grad({y.exp().sum()}, {x}, {}, true, create_graph)[0];
      return std::make_pair(g.square().sum(), x);
    };
    const auto [penalty, x] = penalty_at(0, /*create_graph=*/true);
    const auto found = grad({penalty}, {x, norm->weight});
    const double slope = summed((found[0] * own_input(along, cut)).sum()).item<double>() +
                         summed((found[1] * weight_along).sum()).item<double>();
    constexpr double kStep = 1e-5;
    const double high = summed(penalty_at(kStep, false).first).item<double>();
    const double low = summed(penalty_at(-kStep, false).first).item<double>();
    EXPECT_NEAR((high - low) / (2 * kStep) / slope, 1, 1e-7);
  }
}

TEST(SyncBatchNormDerivative, RecordedGradientsAreThoseOfThePasses) {
  const at::Tensor whole = same_everywhere(1, {17, 3, 2}, 100), dy = same_everywhere(2, {17, 3, 2});
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const Cut& cut : cuts()) {
      SyncBatchNorm norm = make_norm(3);
      set_parameters(norm, 4);
      norm->to(dtype == at::kDouble ? at::kDouble : at::kFloat);
      const at::Tensor x = own_input(whole, cut).to(dtype).detach().requires_grad_();
      const at::Tensor y = norm->forward(x);
      const std::vector<at::Tensor> wanted = {x, norm->weight, norm->bias};
      const auto of = [&](bool create_graph) {
        return grad({y}, wanted, {own_input(dy, cut).to(dtype)}, true, create_graph);
      };
      const auto plain = of(false), recorded = of(true);
      for (size_t i = 0; i < wanted.size(); ++i) {
        EXPECT_FALSE(plain[i].requires_grad());
        EXPECT_EQ(recorded[i].scalar_type(), plain[i].scalar_type());
        EXPECT_EQ(recorded[i].strides(), plain[i].strides());
        const double unit = dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 2.4e-7 : 8e-3;
        expect_close(recorded[i], plain[i], unit, "gradient " + std::to_string(i));
      }
    }
  }
}

TEST(SumOverRanks, IsItsOwnAdjointToAnyOrder) {
  const auto rank = static_cast<double>(world()->rank());
  const int ranks = world()->size();
  const at::Tensor t =
      torch::full({2, 3}, 1 + rank, torch::kDouble).to(test_device()).t().requires_grad_();
  const at::Tensor total = sum_over_ranks(t, world());
  const double sum = ranks * (ranks + 1) / 2.;
  expect_close(total, torch::full({3, 2}, sum, torch::kDouble), 1e-15, "total");
  // Rank r's loss is (1 + r)·Σ total³: the sum of all is S·Σ total³ with S = Σ (1 + r).
  const at::Tensor g =
      grad({(1 + rank) * total.pow(3).sum()}, {t}, {}, true, /*create_graph=*/true)[0];
  expect_close(g, torch::full({3, 2}, 3 * sum * sum * sum, torch::kDouble), 1e-14, "gradient");
  // g = 3·S·total² on every rank; the ranks' losses Σ g are R·Σ 3·S·total² together.
  const at::Tensor h = grad({g.sum()}, {t})[0];
  expect_close(h, torch::full({3, 2}, 6 * ranks * sum * sum, torch::kDouble), 1e-14, "second");
  EXPECT_THROW(sum_over_ranks(t, nullptr), Error);
}

}  // namespace
}  // namespace syncbn
