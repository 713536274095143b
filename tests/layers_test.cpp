// Every layer's own derivative against autograd of the same function and against finite
// differences, in double, through a whole network of that layer: the loss's gradient by every
// parameter. What they are compared with is computed on the CPU.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "base/random.hpp"
#include "nn/activation.hpp"
#include "nn/linear.hpp"
#include "nn/loss.hpp"
#include "support/mpi_main.hpp"
#include "support/reference.hpp"
#include "train/replica.hpp"

namespace syncbn::test {
namespace {

constexpr int64_t kRows = 12, kInputs = 9;

at::TensorOptions on_device(at::ScalarType dtype) {
  return at::device(test_device()).dtype(dtype);
}

struct Case {
  std::string activation, norm, position;
  bool output;
  double dropout;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.activation << ' ' << c.norm << ' ' << c.position << (c.output ? " output" : "")
             << " dropout " << c.dropout;
}

// A network with what belongs around it, on this rank alone.
struct Bench {
  explicit Bench(const Case& c)
      : network(model(c), norm(c), {kInputs, kClasses, kRows + 3, at::kDouble, test_device()},
                {3, 3}),
        alone(test_runtime().world()->split(test_runtime().rank(), 0)),
        replica(network, sharding, at::kDouble, test_device(), alone),
        grouping(alone, sharding, kRows),
        shards(sharding.shard_rows(kRows)) {
    context.batch = kRows;
    context.rows = {0, kRows};
    context.shards = &shards;
    context.groups = &grouping.of(kRows);
    torch::manual_seed(1);
    x = torch::randn({kRows, kInputs}, at::kDouble);
    labels = torch::randint(kClasses, {kRows}, at::kLong);
    replica.parameters().add_(torch::randn_like(replica.parameters()), 0.1);  // γ, β off 1 and 0
  }
  static ModelOptions model(const Case& c) {
    ModelOptions options;
    options.hidden = "7,6";
    options.activation = c.activation;
    options.dropout = c.dropout;
    return options;
  }
  static NormOptions norm(const Case& c) {
    NormOptions options;
    options.kind = c.norm;
    options.position = c.position;
    options.output = c.output;
    return options;
  }
  double loss() {
    network.input(kRows).copy_(x);
    at::Tensor totals = torch::empty({sharding.shards, 2}, on_device(at::kDouble));
    softmax_cross_entropy(network.forward(context), labels.to(test_device()), shards, 1.0 / kRows,
                          totals, network.logits_gradient());
    return totals.sum(0)[0].item<double>() / kRows;
  }

  static constexpr int64_t kClasses = 10;
  const Sharding sharding = {3, 0, 1, true};
  Network network;
  CommPtr alone;
  Replica replica;
  StatsGrouping grouping;
  std::vector<Range> shards;
  StepContext context;
  at::Tensor x, labels;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* activation : {"relu", "sigmoid", "tanh"}) {
    for (const char* norm : {"none", "batch", "layer"}) {
      for (const char* position : {"pre", "post"}) {
        all.push_back({activation, norm, position, position == std::string("post"), 0});
      }
    }
  }
  return all;
}

TEST(Layers, EqualAutograd) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::PrintToString(c));
    Bench bench(c);
    Reference reference(bench.network, bench.replica.state_dict(), Bench::norm(c));
    const double expected = reference.backward(bench.x, bench.labels, kRows);
    EXPECT_NEAR(bench.loss(), expected, 1e-12 * std::abs(expected));
    bench.network.backward(bench.context);
    int64_t offset = 0;
    for (const auto& parameter : reference.parameters()) {
      const at::Tensor ours = bench.replica.gradients().cpu().narrow(0, offset, parameter.numel());
      const at::Tensor scale = reference.parameters().back().grad().abs().max();
      const double difference = (ours - parameter.grad().flatten()).abs().max().item<double>();
      EXPECT_LE(difference, 1e-12 * std::max(1.0, scale.item<double>()))
          << "parameter at " << offset;
      offset += parameter.numel();
    }
    EXPECT_EQ(offset, bench.replica.parameters().numel());
  }
}

TEST(Layers, EqualFiniteDifferences) {
  auto all = cases();
  all.push_back({"tanh", "batch", "pre", false, 0.4});  // the mask is a constant of the step
  for (const Case& c : all) {
    if (c.activation == "relu") continue;  // has a kink
    SCOPED_TRACE(testing::PrintToString(c));
    Bench bench(c);
    bench.loss();
    bench.network.backward(bench.context);
    const at::Tensor gradient = bench.replica.gradients().clone();
    at::Tensor& parameters = bench.replica.parameters();
    constexpr double kStep = 1e-5;
    for (int64_t p = 0; p < parameters.numel(); p += 3) {
      const double kept = parameters[p].item<double>();
      parameters[p] = kept + kStep;
      const double up = bench.loss();
      parameters[p] = kept - kStep;
      const double down = bench.loss();
      parameters[p] = kept;
      ASSERT_NEAR((up - down) / (2 * kStep), gradient[p].item<double>(), 2e-9) << "parameter " << p;
    }
  }
}

TEST(Dropout, MaskIsAFunctionOfTheSampleNotOfTheShare) {
  const int64_t n = 40, c = 33;
  const at::Tensor x = torch::ones({n, c}, on_device(at::kDouble));
  StepContext context;
  context.step = 5;
  context.rows = {0, n};
  Dropout whole(c, 0.3, 9, 2);
  at::Tensor expected = torch::empty_like(x);
  whole.forward(x, expected, context);
  const double dropped = (expected == 0).to(at::kDouble).mean().item<double>();
  EXPECT_NEAR(dropped, 0.3, 0.05);
  EXPECT_NEAR(expected.max().item<double>(), 1 / 0.7, 1e-12);
  for (const Range rows : {Range{0, 7}, Range{7, 40}, Range{13, 14}}) {
    Dropout part(c, 0.3, 9, 2);
    context.rows = rows;
    const at::Tensor in = x.narrow(0, 0, rows.size());
    at::Tensor out = torch::empty_like(in);
    part.forward(in, out, context);
    EXPECT_TRUE(torch::equal(out, expected.narrow(0, rows.begin, rows.size())));
  }
  // Another step, layer or seed: another mask. Evaluation: none.
  context.rows = {0, n};
  at::Tensor other = torch::empty_like(x);
  context.step = 6;
  whole.forward(x, other, context);
  EXPECT_FALSE(torch::equal(other, expected));
  context.step = 5;
  Dropout(c, 0.3, 9, 3).forward(x, other, context);
  EXPECT_FALSE(torch::equal(other, expected));
  Dropout(c, 0.3, 10, 2).forward(x, other, context);
  EXPECT_FALSE(torch::equal(other, expected));
  context.training = false;
  whole.forward(x, other, context);
  EXPECT_TRUE(torch::equal(other, x));
}

// Many steps in a row without waiting, with more and more rows: no mask may be made in memory out
// of which another is still being copied.
TEST(Dropout, MasksOfConsecutiveStepsDoNotMix) {
  constexpr int64_t kSteps = 40, kUnits = 257;
  Dropout layer(kUnits, 0.5, 4, 1);
  std::vector<at::Tensor> masks;
  StepContext context;
  const auto rows_of = [](int64_t step) { return 20 + 150 * (step / 10); };
  for (context.step = 0; context.step < kSteps; ++context.step) {
    context.rows = {0, rows_of(context.step)};
    const at::Tensor x = torch::ones({context.rows.size(), kUnits}, on_device(at::kFloat));
    masks.push_back(torch::empty_like(x));
    layer.forward(x, masks.back(), context);
  }
  for (context.step = 0; context.step < kSteps; ++context.step) {
    context.rows = {0, rows_of(context.step)};
    at::Tensor expected = torch::empty({context.rows.size(), kUnits});
    Dropout(kUnits, 0.5, 4, 1).forward(torch::ones_like(expected), expected, context);
    EXPECT_TRUE(torch::equal(masks[static_cast<size_t>(context.step)].cpu(), expected))
        << "step " << context.step;
  }
}

TEST(Dropout, EqualsAutogradUnderItsMask) {
  const at::Tensor x = torch::randn({8, 13}, on_device(at::kDouble)).set_requires_grad(true);
  const at::Tensor upstream = torch::randn({8, 13}, on_device(at::kDouble));
  StepContext context;
  context.rows = {0, 8};
  Dropout dropout(13, 0.4, 2, 1);
  at::Tensor mask = torch::empty_like(upstream), y = torch::empty_like(upstream);
  dropout.forward(torch::ones_like(upstream), mask, context);
  const at::Tensor expected = x * mask;
  expected.backward(upstream);
  dropout.forward(x.detach(), y, context);
  at::Tensor dy = upstream.clone(), dx = torch::empty_like(dy);
  dropout.backward(x.detach(), y, dy, dx, context);
  EXPECT_TRUE(torch::equal(y, expected.detach()));
  EXPECT_TRUE(torch::equal(dx, x.grad()));
}

TEST(Linear, InitsHaveTheirDeviations) {
  const int64_t in = 400, out = 300;
  const auto deviation = [&](const char* init) {
    ModelOptions options;
    options.init = init;
    options.init_std = 0.07;
    const LinearInit made = initial_linear(in, out, options, 1, 0);
    EXPECT_NEAR(made.weight.mean().item<double>(), 0, 2e-3) << init;
    if (init != std::string("torch")) {
      EXPECT_EQ(made.bias.abs().max().item<double>(), 0) << init;
    }
    EXPECT_TRUE(torch::equal(made.weight, initial_linear(in, out, options, 1, 0).weight));
    EXPECT_FALSE(torch::equal(made.weight, initial_linear(in, out, options, 2, 0).weight));
    EXPECT_FALSE(torch::equal(made.weight, initial_linear(in, out, options, 1, 3).weight));
    return made.weight.std().item<double>();
  };
  EXPECT_NEAR(deviation("torch"), 1 / std::sqrt(3.0 * in), 3e-4);
  EXPECT_NEAR(deviation("he"), std::sqrt(2.0 / in), 5e-4);
  EXPECT_NEAR(deviation("glorot"), std::sqrt(2.0 / (in + out)), 5e-4);
  EXPECT_NEAR(deviation("normal"), 0.07, 5e-4);
}

TEST(Loss, EqualsCrossEntropyAndCountsTheFirstOfEqualLogits) {
  torch::manual_seed(2);
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    const at::Tensor logits = (torch::randn({50, 10}, dtype) * 30).set_requires_grad(true);
    const at::Tensor labels = torch::randint(10, {50}, at::kLong);
    const at::Tensor loss = torch::nn::functional::cross_entropy(
        logits, labels, torch::nn::functional::CrossEntropyFuncOptions().reduction(torch::kSum));
    loss.backward();
    at::Tensor totals = torch::empty({3, 2}, on_device(at::kDouble));
    at::Tensor gradient = torch::empty({50, 10}, on_device(dtype));
    softmax_cross_entropy(logits.detach().to(test_device()), labels.to(test_device()),
                          {{0, 20}, {20, 20}, {20, 50}}, 1, totals, gradient);
    EXPECT_EQ(totals[1].abs().max().item<double>(), 0) << "of no rows";
    totals = totals.sum(0);
    const double bound = dtype == at::kDouble ? 1e-13 : 1e-6;
    // CUDA's log-softmax subtracts max + log Σ, up to 128 here, rounded to 128 · 2⁻²⁴ = 8e-6.
    const double gradient_bound = dtype == at::kFloat && test_device().is_cuda() ? 1e-5 : bound;
    EXPECT_LE(relative_difference(totals[0], loss), bound);
    EXPECT_LE(relative_difference(gradient, logits.grad()), gradient_bound);
    EXPECT_EQ(totals[1].item<double>(), logits.argmax(1).eq(labels).sum().item<double>());
  }
  at::Tensor totals = torch::empty({1, 2}, on_device(at::kDouble)), none;
  softmax_cross_entropy(torch::zeros({2, 10}, on_device(at::kFloat)),
                        torch::tensor({0, 1}, on_device(at::kLong)), {{0, 2}}, 1, totals, none);
  EXPECT_EQ(totals[0][1].item<double>(), 1);  // all equal: class 0 is the first
  softmax_cross_entropy(torch::zeros({0, 10}, on_device(at::kFloat)),
                        torch::zeros({0}, on_device(at::kLong)), {{0, 0}}, 1, totals, none);
  EXPECT_EQ(totals.abs().max().item<double>(), 0);
}

}  // namespace
}  // namespace syncbn::test
