// The optimizers against torch::optim on the same gradients, and the learning rate of each step
// against values worked out by hand.
#include "train/optimizer.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <memory>
#include <string>
#include <vector>

#include "support/close.hpp"

namespace syncbn {
namespace {

constexpr int kSteps = 20;
constexpr int64_t kSize = 1037;  // no multiple of a vector's width
constexpr double kRate = 0.03;

/// A part of the parameters, and whether it is of the weights.
struct Part {
  Range of;
  bool weight;
};
// As in a network: matrices, and between them biases and what a norm layer learns.
const std::vector<Part> kParts = {
    {{0, 500}, true}, {{500, 613}, false}, {{613, 1000}, true}, {{1000, kSize}, false}};

std::vector<Range> weights() {
  return {kParts[0].of, kParts[2].of};
}

/// Two groups of parameters, whose decays PyTorch's users set apart.
template <class Torch, class Options>
std::unique_ptr<torch::optim::Optimizer> in_groups(const std::vector<at::Tensor>& parts,
                                                   const TrainOptions& o, const Options& options) {
  std::vector<at::Tensor> decayed, others;
  for (size_t i = 0; i < parts.size(); ++i) {
    (o.decay == "all" || kParts[i].weight ? decayed : others).push_back(parts[i]);
  }
  Options without = options;
  without.weight_decay(0);
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(decayed, std::make_unique<Options>(options));
  if (!others.empty()) groups.emplace_back(others, std::make_unique<Options>(without));
  return std::make_unique<Torch>(groups, options);
}

std::unique_ptr<torch::optim::Optimizer> reference_optimizer(const TrainOptions& o,
                                                             const std::vector<at::Tensor>& parts) {
  if (o.optimizer == "sgd") {
    return in_groups<torch::optim::SGD>(parts, o,
                                        torch::optim::SGDOptions(kRate)
                                            .momentum(o.momentum)
                                            .nesterov(o.nesterov)
                                            .weight_decay(o.weight_decay));
  }
  const auto betas = std::make_tuple(o.beta1, o.beta2);
  if (o.optimizer == "adam") {
    return in_groups<torch::optim::Adam>(
        parts, o,
        torch::optim::AdamOptions(kRate).betas(betas).eps(o.adam_eps).weight_decay(o.weight_decay));
  }
  return in_groups<torch::optim::AdamW>(
      parts, o,
      torch::optim::AdamWOptions(kRate).betas(betas).eps(o.adam_eps).weight_decay(o.weight_decay));
}

void set_rate(torch::optim::Optimizer& optimizer, double lr) {
  for (auto& group : optimizer.param_groups()) group.options().set_lr(lr);
}

/// 20 steps of both in this dtype, at a rate that changes, on the same gradients.
void compare(const TrainOptions& options, torch::Dtype dtype, double tolerance) {
  SCOPED_TRACE(testing::Message() << options.optimizer << " " << torch::toString(dtype));
  torch::manual_seed(3);
  const at::Tensor initial = torch::randn({kSize}, dtype);
  at::Tensor parameters = initial.clone(), gradients = torch::zeros({kSize}, dtype);
  Optimizer optimizer(options, parameters, gradients, weights());
  std::vector<at::Tensor> expected;
  for (const Part& part : kParts) {
    const at::Tensor mine = initial.narrow(0, part.of.begin, part.of.size());
    expected.push_back(mine.clone().requires_grad_());
  }
  const auto reference = reference_optimizer(options, expected);
  for (int step = 0; step < kSteps; ++step) {
    const double lr = kRate * (1 + step % 3);
    gradients.copy_(torch::randn({kSize}, dtype) + 0.1);
    for (size_t i = 0; i < kParts.size(); ++i) {
      const Range of = kParts[i].of;
      expected[i].mutable_grad() = gradients.narrow(0, of.begin, of.size()).clone();
    }
    if (options.clip > 0) torch::nn::utils::clip_grad_norm_(expected, options.clip);
    set_rate(*reference, lr);
    optimizer.step(lr);
    reference->step();
  }
  expect_close(parameters, at::cat(expected).detach(), tolerance, "parameters");
  EXPECT_GT(relative_error(parameters, initial), 0.01)
      << "the steps were too small to tell anything";
}

void compare(const TrainOptions& options) {
  compare(options, torch::kDouble, 1e-12);
  compare(options, torch::kFloat, 1e-6);
}

TrainOptions sgd(double momentum, double decay = 0, bool nesterov = false) {
  TrainOptions options;
  options.optimizer = "sgd";
  options.momentum = momentum;
  options.weight_decay = decay;
  options.nesterov = nesterov;
  return options;
}

TrainOptions adam(const std::string& name, double decay = 0) {
  TrainOptions options;
  options.optimizer = name;
  options.weight_decay = decay;
  return options;
}

TEST(Optimizer, SgdEqualsTorch) {
  compare(sgd(0));
  compare(sgd(0, 0.05));
  compare(sgd(0.9));
  compare(sgd(0.9, 0.05));
  compare(sgd(0.8, 0, /*nesterov=*/true));
  compare(sgd(0.8, 0.05, /*nesterov=*/true));
}

TEST(Optimizer, AdamEqualsTorch) {
  compare(adam("adam"));
  compare(adam("adam", 0.05));
  TrainOptions other = adam("adam", 0.01);
  other.beta1 = 0.8;
  other.beta2 = 0.95;
  other.adam_eps = 1e-3;
  compare(other);
}

TEST(Optimizer, AdamWEqualsTorch) {
  compare(adam("adamw"));
  compare(adam("adamw", 0.05));
}

TEST(Optimizer, DecayOfWeightsAloneEqualsTwoGroupsOfTorch) {
  for (TrainOptions options : {sgd(0, 0.05), sgd(0.9, 0.05), sgd(0.8, 0.05, /*nesterov=*/true),
                               adam("adam", 0.05), adam("adamw", 0.5)}) {
    options.decay = "weights";
    compare(options);
    options.clip = 20;
    compare(options);
    options.weight_decay = 0;
    compare(options);
  }
}

TEST(Optimizer, ALimitAboveTheTypesRangeClipsNothing) {
  at::Tensor gradients = torch::full({4}, 1e30, torch::kFloat);
  for (const double clip : {3.5e38, 1e39, 1e308}) {
    TrainOptions options = sgd(0);
    options.clip = clip;
    at::Tensor parameters = torch::zeros({4}, torch::kFloat);
    Optimizer(options, parameters, gradients, {}).step(1);
    EXPECT_TRUE(at::equal(parameters, -gradients)) << clip << ": " << parameters;
  }
}

TEST(Optimizer, ClipsAsTorchDoes) {
  for (const double clip : {0.5, 33.0, 1e6}) {  // always, sometimes (the norm is about 32.4), never
    SCOPED_TRACE(clip);
    for (TrainOptions options : {sgd(0.9, 0.01), adam("adam")}) {
      options.clip = clip;
      compare(options);
    }
  }
}

TEST(Optimizer, ClipLimitsTheNorm) {
  TrainOptions options = sgd(0);
  options.clip = 2;
  at::Tensor parameters = torch::zeros({4}, torch::kDouble);
  at::Tensor gradients = torch::full({4}, 50.0, torch::kDouble);
  Optimizer(options, parameters, gradients, {}).step(1);
  EXPECT_NEAR(parameters.norm().item<double>(), 2, 1e-6);
}

// ---- the learning rate; 10 steps an epoch, 10 epochs ----

TrainOptions rate_options(const std::string& schedule = "constant") {
  TrainOptions options;
  options.lr = 0.1;
  options.lr_reference = 64;
  options.epochs = 10;
  options.schedule = schedule;
  return options;
}

LearningRate rate_for(const TrainOptions& options, int64_t batch = 256) {
  return LearningRate(options, batch, /*steps_per_epoch=*/10);
}

TEST(LearningRate, Rules) {
  TrainOptions options = rate_options();
  EXPECT_DOUBLE_EQ(rate_for(options).base(), 0.1);
  options.lr_rule = "linear";
  EXPECT_DOUBLE_EQ(rate_for(options).base(), 0.4);
  EXPECT_DOUBLE_EQ(rate_for(options, 16).base(), 0.025);
  options.lr_rule = "sqrt";
  EXPECT_DOUBLE_EQ(rate_for(options).base(), 0.2);
  EXPECT_DOUBLE_EQ(rate_for(options, 16).base(), 0.05);
  EXPECT_DOUBLE_EQ(rate_for(options).at(57), 0.2);
}

TEST(LearningRate, WarmUp) {
  TrainOptions options = rate_options();
  options.lr_rule = "linear";
  options.warmup_steps = 4;
  const LearningRate rate = rate_for(options);
  const double expected[] = {0.1, 0.2, 0.3, 0.4, 0.4, 0.4};
  for (int64_t step = 0; step < 6; ++step) EXPECT_DOUBLE_EQ(rate.at(step), expected[step]) << step;
}

TEST(LearningRate, Steps) {
  TrainOptions options = rate_options("step");
  options.milestones = "3,7";
  options.gamma = 0.5;
  const LearningRate rate = rate_for(options);
  EXPECT_DOUBLE_EQ(rate.at(0), 0.1);
  EXPECT_DOUBLE_EQ(rate.at(29), 0.1);
  EXPECT_DOUBLE_EQ(rate.at(30), 0.05);
  EXPECT_DOUBLE_EQ(rate.at(69), 0.05);
  EXPECT_DOUBLE_EQ(rate.at(70), 0.025);
  EXPECT_DOUBLE_EQ(rate.at(99), 0.025);
}

TEST(LearningRate, Cosine) {
  const LearningRate rate = rate_for(rate_options("cosine"));
  EXPECT_DOUBLE_EQ(rate.at(0), 0.1);
  EXPECT_NEAR(rate.at(25), 0.1 * 0.85355339059327376, 1e-15);  // (1 + √½)/2
  EXPECT_NEAR(rate.at(50), 0.05, 1e-15);
  EXPECT_NEAR(rate.at(75), 0.1 * 0.14644660940672624, 1e-15);
  EXPECT_NEAR(rate.at(100), 0, 1e-15);
}

TEST(LearningRate, WarmUpComesBeforeTheSchedule) {
  TrainOptions options = rate_options("cosine");
  options.warmup_steps = 50;
  EXPECT_DOUBLE_EQ(rate_for(options).at(24), 0.05);
  EXPECT_DOUBLE_EQ(rate_for(options).at(49), 0.1);
  EXPECT_NEAR(rate_for(options).at(50), 0.05, 1e-15);
}

}  // namespace
}  // namespace syncbn
