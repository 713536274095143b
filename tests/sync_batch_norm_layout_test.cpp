// syncbn::SyncBatchNorm is torch::nn::BatchNorm1d, 2d and 3d in layout, dtype and values: a
// property test over layout × dtype × dimensions × options × mode × shares of the batch.
//
// Values are compared with BatchNorm in float64 on the whole batch of the same numbers; dtype and
// strides with at::batch_norm of the very same share, on the CPU.
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "comm/reduce_gradients.hpp"
#include "nn/sync_batch_norm.hpp"
#include "support/batch_shares.hpp"
#include "support/close.hpp"

namespace syncbn {
namespace {

using torch::nn::BatchNormOptions;

constexpr int64_t kSamples = 7, kFeatures = 3;

/// A way to lay out numbers in memory. `values` makes numbers that fit it: equal ones where it
/// repeats them.
struct Layout {
  const char* name;
  std::function<at::Tensor(const at::Tensor&)> lay;
  std::function<at::Tensor(const at::Tensor&)> values = [](const at::Tensor& t) { return t; };
};

at::MemoryFormat channels_last(const at::Tensor& t) {
  return t.dim() == 4   ? at::MemoryFormat::ChannelsLast
         : t.dim() == 5 ? at::MemoryFormat::ChannelsLast3d
                        : at::MemoryFormat::Contiguous;
}

int64_t repeated_dim(const at::Tensor& t) {
  return t.dim() == 2 ? 0 : t.dim() - 1;
}

at::Tensor repeated(const at::Tensor& t) {
  const int64_t d = repeated_dim(t);
  return t.size(d) == 0 ? t : t.narrow(d, 0, 1).expand_as(t);
}

const std::vector<Layout>& layouts() {
  static const std::vector<Layout> all = {
      {"contiguous", [](const at::Tensor& t) { return t.contiguous(); }},
      {"channels last", [](const at::Tensor& t) { return t.contiguous(channels_last(t)); }},
      {"channels innermost",
       [](const at::Tensor& t) { return t.movedim(1, -1).contiguous().movedim(-1, 1); }},
      {"transposed",
       [](const at::Tensor& t) { return t.transpose(0, -1).contiguous().transpose(0, -1); }},
      {"every second",
       [](const at::Tensor& t) {
         const at::Tensor wide = at::stack({t, t}, -1).flatten(-2);
         return wide.slice(-1, 0, wide.size(-1), 2);
       }},
      {"half of the channels, channels last",
       [](const at::Tensor& t) {
         const at::Tensor wide = at::cat({t, t}, 1);
         return wide.contiguous(channels_last(wide)).narrow(1, 0, t.size(1));
       }},
      {"expanded", repeated, [](const at::Tensor& t) { return repeated(t).contiguous(); }},
  };
  return all;
}

const std::vector<std::vector<int64_t>>& shapes() {
  static const std::vector<std::vector<int64_t>> all = {{kSamples, kFeatures},
                                                        {kSamples, kFeatures, 3},
                                                        {kSamples, kFeatures, 3, 2},
                                                        {kSamples, kFeatures, 2, 1, 2}};
  return all;
}

struct Case {
  const Layout *x_layout, *dy_layout;
  std::vector<int64_t> sizes;
  BatchNormOptions options{kFeatures};
  const Cut* cut;
  at::ScalarType input, parameters;
  int seed;
};

/// Half the distance from 1 to the next number: what one rounding costs at most, relatively.
double rounding(at::ScalarType type) {
  switch (type) {
    case at::kHalf:
      return std::numeric_limits<at::Half>::epsilon() / 2;
    case at::kBFloat16:
      return std::numeric_limits<at::BFloat16>::epsilon() / 2;
    case at::kFloat:
      return std::numeric_limits<float>::epsilon() / 2;
    default:
      return 1e-13;  // of sums of a few hundred numbers
  }
}

/// |actual − expected| ≤ bound, everywhere.
void expect_within(const at::Tensor& actual, const at::Tensor& expected, double bound,
                   const char* what) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  if (expected.numel() == 0) return;
  const at::Tensor a = actual.detach().cpu().to(at::kDouble), e = expected.detach().cpu();
  EXPECT_LE((a - e.to(at::kDouble)).abs().max().item<double>(), bound) << what;
}

double largest(const at::Tensor& t) {
  return t.numel() == 0 ? 0 : t.detach().cpu().abs().max().item<double>();
}

void expect_same_layout(const at::Tensor& actual, const at::Tensor& expected, const char* what) {
  EXPECT_EQ(actual.scalar_type(), expected.scalar_type()) << what;
  if (expected.numel() == 0) return;
  EXPECT_EQ(actual.is_contiguous(), expected.is_contiguous()) << what;
  EXPECT_EQ(actual.suggest_memory_format(), expected.suggest_memory_format()) << what;
  EXPECT_EQ(actual.strides(), expected.strides()) << what;
}

/// torch's BatchNorm for that many dimensions, in float64, on the whole batch.
template <class Use>
void with_reference(const Case& c, Use&& use) {
  const auto run = [&](auto reference) {
    reference->to(at::kDouble);
    use(reference);
  };
  if (c.sizes.size() <= 3) {
    run(torch::nn::BatchNorm1d(c.options));
  } else if (c.sizes.size() == 4) {
    run(torch::nn::BatchNorm2d(c.options));
  } else {
    run(torch::nn::BatchNorm3d(c.options));
  }
}

struct Pass {
  at::Tensor y, dx;
};

template <class Norm>
Pass forward_backward(Norm& norm, const at::Tensor& input, const at::Tensor& dy) {
  norm->zero_grad();
  const at::Tensor x = input.detach().requires_grad_();
  const at::Tensor y = norm->forward(x);
  std::vector<at::Tensor> wanted = {x};
  for (const at::Tensor& p : norm->parameters()) wanted.push_back(p);
  const auto gradients = torch::autograd::grad({y}, wanted, {dy});
  for (size_t i = 1; i < wanted.size(); ++i) wanted[i].mutable_grad() = gradients[i];
  return {y, gradients[0]};
}

/// What torch makes of this share: its numbers are its own, its layout and dtype what ours must be.
Pass torch_pass(SyncBatchNorm& norm, const at::Tensor& input, const at::Tensor& dy) {
  const auto host = [](const at::Tensor& t) { return t.defined() ? t.detach().cpu().clone() : t; };
  const at::Tensor x = input.detach().requires_grad_();
  const bool training = norm->is_training() || !norm->running_mean.defined();
  const at::Tensor y =
      at::batch_norm(x, host(norm->weight), host(norm->bias), host(norm->running_mean),
                     host(norm->running_var), training, 0.1, norm->options.eps(), false);
  return {y, torch::autograd::grad({y}, {x}, {dy})[0]};
}

template <class Reference>
void expect_equal_gradients(SyncBatchNorm& norm, Reference& reference) {
  if (!norm->weight.defined()) return;
  std::vector<double> bounds;
  for (const at::Tensor& p : norm->parameters()) {
    EXPECT_EQ(p.grad().scalar_type(), p.scalar_type());
    const double parts = largest(summed(p.grad().to(at::kDouble).abs()));
    bounds.push_back(2 * rounding(p.scalar_type()) * parts + 1e-12);
  }
  reduce_gradients(norm->parameters(), world());
  expect_within(norm->weight.grad(), reference->weight.grad(), bounds[0], "dγ");
  expect_within(norm->bias.grad(), reference->bias.grad(), bounds[1], "dβ");
}

template <class Reference>
void expect_equal_buffers(SyncBatchNorm& norm, Reference& reference, int steps) {
  EXPECT_EQ(norm->running_mean.defined(), reference->running_mean.defined());
  if (!reference->running_mean.defined()) return;
  EXPECT_EQ(norm->running_mean.scalar_type(), norm->running_var.scalar_type());
  const double share = steps * rounding(norm->running_mean.scalar_type());
  expect_within(norm->running_mean, reference->running_mean,
                share * largest(reference->running_mean) + 1e-12, "running_mean");
  expect_within(norm->running_var, reference->running_var,
                share * largest(reference->running_var) + 1e-12, "running_var");
  EXPECT_EQ(norm->num_batches_tracked.template item<int64_t>(),
            reference->num_batches_tracked.template item<int64_t>());
}

/// The same numbers in both: those of `norm`, which may be rounded.
template <class Reference>
void copy_state(SyncBatchNorm& norm, Reference& reference) {
  const torch::NoGradGuard no_gradient;
  const auto copy = [](at::Tensor& to, const at::Tensor& from) {
    if (to.defined()) to.copy_(from);
  };
  copy(reference->weight, norm->weight);
  copy(reference->bias, norm->bias);
  copy(reference->running_mean, norm->running_mean);
  copy(reference->running_var, norm->running_var);
}

/// One forward and backward of each in the mode that `norm` is in.
template <class Reference>
void step(const Case& c, SyncBatchNorm& norm, Reference& reference, int seed) {
  const auto numbers = [&](int s, const Layout& layout, double mean) {
    return layout.values(same_everywhere(s, c.sizes, mean)).to(c.input).to(at::kDouble);
  };
  const at::Tensor x = numbers(seed, *c.x_layout, 3), dy = numbers(seed + 1, *c.dy_layout, 0);
  const Pass expected = forward_backward(reference, x, dy);
  const auto own = [&](const at::Tensor& whole, const Layout& layout) {
    return layout.lay(own_rows(whole, *c.cut).to(c.input));
  };
  const at::Tensor own_x = own(x, *c.x_layout), own_dy = own(dy, *c.dy_layout);
  const Pass alike = torch_pass(norm, own_x, own_dy);
  const Pass actual = forward_backward(norm, c.x_layout->lay(own_x.to(test_device())),
                                       c.dy_layout->lay(own_dy.to(test_device())));
  expect_same_layout(actual.y, alike.y, "y");
  expect_same_layout(actual.dx, alike.dx, "dx");
  // Equal samples have a variance of 0: 1/√eps makes float64's own rounding 316 times as large.
  constexpr double kRest = 1e-12;
  // Evaluation is torch's own, with a rounding or two more in float32 and below.
  const double roundings = norm->is_training() ? 1.01 : 8;
  const double unit = roundings * rounding(c.input);
  expect_within(actual.y, own_rows(expected.y, *c.cut), unit * largest(expected.y) + kRest, "y");
  expect_within(actual.dx, own_rows(expected.dx, *c.cut), unit * largest(expected.dx) + kRest,
                "dx");
}

void run_case(const Case& c) {
  SyncBatchNorm norm(c.options, world());
  {
    const torch::NoGradGuard no_gradient;
    if (norm->weight.defined()) {
      norm->weight.copy_(same_everywhere(c.seed, {kFeatures}, 1));
      norm->bias.copy_(same_everywhere(c.seed + 1, {kFeatures}));
    }
  }
  norm->to(test_device(), c.parameters);
  with_reference(c, [&](auto& reference) {
    copy_state(norm, reference);
    for (int i = 0; i < 2; ++i) {
      step(c, norm, reference, c.seed + 10 * i);
      expect_equal_gradients(norm, reference);
      expect_equal_buffers(norm, reference, i + 1);
    }
    copy_state(norm, reference);
    norm->eval();
    reference->eval();
    step(c, norm, reference, c.seed + 50);
    expect_equal_buffers(norm, reference, 0);
  });
}

/// Every layout, shape, affine and track_running_stats; the momentum, the cut of the batch and the
/// layout of the incoming gradient are drawn.
void run_all(at::ScalarType input, at::ScalarType parameters) {
  std::mt19937 draw(20261130);  // the same on all ranks
  const auto any = [&](const auto& list) -> const auto& {
    return list[draw() % list.size()];
  };
  const std::vector<std::optional<double>> momenta = {0.1, 0.37, std::nullopt};
  int seed = 0;
  for (const Layout& layout : layouts()) {
    for (const auto& sizes : shapes()) {
      for (const bool affine : {true, false}) {
        for (const bool track : {true, false}) {
          Case c{&layout,      &any(layouts()), sizes,      BatchNormOptions(kFeatures),
                 &any(cuts()), input,           parameters, seed += 100};
          c.options.affine(affine).track_running_stats(track).momentum(any(momenta));
          SCOPED_TRACE(testing::Message()
                       << layout.name << " input, " << c.dy_layout->name << " gradient, "
                       << testing::PrintToString(sizes) << ", " << c.cut->name << ", affine "
                       << affine << ", tracking " << track);
          run_case(c);
        }
      }
    }
  }
}

TEST(SyncBatchNormLayout, Float64) {
  run_all(at::kDouble, at::kDouble);
}
TEST(SyncBatchNormLayout, Float32) {
  run_all(at::kFloat, at::kFloat);
}
TEST(SyncBatchNormLayout, BFloat16WithFloat32Parameters) {
  run_all(at::kBFloat16, at::kFloat);
}
TEST(SyncBatchNormLayout, Float16WithFloat32Parameters) {
  run_all(at::kHalf, at::kFloat);
}
TEST(SyncBatchNormLayout, AllInBFloat16) {
  run_all(at::kBFloat16, at::kBFloat16);
}
TEST(SyncBatchNormLayout, AllInFloat16) {
  run_all(at::kHalf, at::kHalf);
}

// A convolutional net flattens by view(), in training as in evaluation.
TEST(SyncBatchNormLayout, ContiguousOutputCanBeViewed) {
  SyncBatchNorm norm(BatchNormOptions(4), world());
  norm->to(test_device());
  for (const bool training : {true, false}) {
    norm->train(training);
    const at::Tensor y = norm->forward(torch::randn({2, 4, 3, 5}).to(test_device())).relu_();
    EXPECT_EQ(y.view({2, -1}).sizes(), at::IntArrayRef({2, 60}));
  }
}

TEST(SyncBatchNormLayout, AnInputThatChangedIsNoticed) {
  SyncBatchNorm norm(BatchNormOptions(kFeatures), world());
  norm->to(test_device());
  const at::Tensor x = torch::randn({4, kFeatures}).to(test_device()).requires_grad_() * 2;
  const at::Tensor y = norm->forward(x);
  x.mul_(2);  // torch::nn::BatchNorm refuses its backward, too
  EXPECT_THROW(y.sum().backward(), c10::Error);
}

TEST(SyncBatchNormLayout, CpuAutocast) {
  const at::Tensor x = same_everywhere(1, {kSamples, 6}).to(at::kFloat);
  torch::manual_seed(3);
  torch::nn::Linear linear(6, kFeatures);
  SyncBatchNorm norm(BatchNormOptions(kFeatures), world());
  torch::nn::BatchNorm1d reference(kFeatures);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  const at::Tensor hidden = linear->forward(x);
  const at::Tensor y = norm->forward(own_rows(hidden)), expected = reference->forward(hidden);
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCPU, false);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  EXPECT_EQ(expected.scalar_type(), at::kBFloat16);
  expect_within(y, own_rows(expected), 2 * rounding(at::kBFloat16) * largest(expected), "y");
  y.square().sum().backward();
  EXPECT_EQ(norm->weight.grad().scalar_type(), at::kFloat);
  EXPECT_EQ(linear->weight.grad().scalar_type(), at::kFloat);
}

}  // namespace
}  // namespace syncbn
