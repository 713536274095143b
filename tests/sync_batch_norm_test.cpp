// syncbn::SyncBatchNorm on the shares of a batch, on the tested device, against
// torch::nn::BatchNorm on the whole batch, on the CPU, each through autograd.
#include "nn/sync_batch_norm.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "comm/reduce_gradients.hpp"
#include "support/batch_shares.hpp"
#include "support/close.hpp"

namespace syncbn {
namespace {

using torch::nn::BatchNormOptions;

constexpr int64_t kFeatures = 5, kSamples = 23;
constexpr double kDouble = 1e-12;
// Statistics and elements are computed in float64 and rounded once; the gradients of γ and β are
// rounded once per rank and running statistics once per step: a few units of 2^-24.
constexpr double kFloat = 1e-6;

/// A norm layer of these options over all ranks, on the tested device.
SyncBatchNorm make_norm(const BatchNormOptions& options = BatchNormOptions(kFeatures),
                        torch::Dtype dtype = torch::kDouble) {
  SyncBatchNorm norm(options, world());
  norm->to(test_device(), dtype);
  return norm;
}

/// What one forward and backward gives.
struct Pass {
  at::Tensor y, dx;
};

template <class Norm>
Pass run(Norm& norm, const at::Tensor& x, const at::Tensor& dy) {
  const at::Tensor leaf = x.detach().clone().requires_grad_();
  norm->zero_grad();
  const at::Tensor y = norm->forward(leaf);
  y.backward(dy);
  return {y, leaf.grad()};
}

template <class Norm>
void set_parameters(Norm& norm, const at::Tensor& weight, const at::Tensor& bias) {
  if (!norm->weight.defined()) return;
  const torch::NoGradGuard no_gradient;
  norm->weight.copy_(weight);
  norm->bias.copy_(bias);
}

template <class Reference>
void expect_equal_state(SyncBatchNorm& norm, Reference& reference, double tolerance) {
  if (norm->weight.defined()) {
    expect_close(summed(norm->weight.grad()), reference->weight.grad(), tolerance, "dγ");
    expect_close(summed(norm->bias.grad()), reference->bias.grad(), tolerance, "dβ");
  }
  EXPECT_EQ(norm->running_mean.defined(), reference->running_mean.defined());
  if (!reference->running_mean.defined()) return;
  expect_close(norm->running_mean, reference->running_mean, tolerance, "running_mean");
  expect_close(norm->running_var, reference->running_var, tolerance, "running_var");
  EXPECT_EQ(norm->num_batches_tracked.template item<int64_t>(),
            reference->num_batches_tracked.template item<int64_t>());
}

/// Three steps of training and one of evaluation on inputs of this shape, by BatchNorm1d or 2d in
/// float64 on the whole batch and by SyncBatchNorm in `dtype` on its shares.
template <class Reference>
void compare(const BatchNormOptions& options, const std::vector<int64_t>& sizes, const Cut& cut,
             torch::Dtype dtype, double tolerance) {
  SCOPED_TRACE(testing::Message() << cut.name << " " << testing::PrintToString(sizes));
  SyncBatchNorm norm = make_norm(options, dtype);
  Reference reference(options);
  reference->to(torch::kDouble);
  for (int step = 0; step < 4; ++step) {
    const at::Tensor x = same_everywhere(4 * step, sizes, /*mean=*/3);
    const at::Tensor dy = same_everywhere(4 * step + 1, sizes);
    const at::Tensor gamma = same_everywhere(4 * step + 2, {sizes[1]}, 1);
    const at::Tensor beta = same_everywhere(4 * step + 3, {sizes[1]});
    set_parameters(norm, gamma, beta);
    if (norm->weight.defined()) set_parameters(reference, norm->weight, norm->bias);
    norm->train(step < 3);
    reference->train(step < 3);
    const Pass expected = run(reference, x, dy);
    const Pass actual = run(norm, own_input(x, cut).to(dtype), own_input(dy, cut).to(dtype));
    EXPECT_EQ(actual.y.scalar_type(), dtype);
    expect_close(actual.y, own_rows(expected.y, cut), tolerance, "y");
    expect_close(actual.dx, own_rows(expected.dx, cut), tolerance, "dx");
    expect_equal_state(norm, reference, tolerance);
  }
}

void compare_all_cuts(const BatchNormOptions& options, torch::Dtype dtype, double tolerance) {
  for (const Cut& cut : cuts()) {
    compare<torch::nn::BatchNorm1d>(options, {kSamples, kFeatures}, cut, dtype, tolerance);
    compare<torch::nn::BatchNorm1d>(options, {kSamples, kFeatures, 3}, cut, dtype, tolerance);
    compare<torch::nn::BatchNorm2d>(options, {kSamples, kFeatures, 3, 2}, cut, dtype, tolerance);
  }
}

TEST(SyncBatchNorm, EqualsBatchNormOnTheWholeBatch) {
  compare_all_cuts(BatchNormOptions(kFeatures), torch::kDouble, kDouble);
}

TEST(SyncBatchNorm, EqualsBatchNormInFloat32) {
  compare_all_cuts(BatchNormOptions(kFeatures), torch::kFloat, kFloat);
}

TEST(SyncBatchNorm, HonoursEveryOption) {
  compare_all_cuts(BatchNormOptions(kFeatures).affine(false), torch::kDouble, kDouble);
  compare_all_cuts(BatchNormOptions(kFeatures).track_running_stats(false), torch::kDouble, kDouble);
  compare_all_cuts(BatchNormOptions(kFeatures).momentum(std::nullopt), torch::kDouble, kDouble);
  compare_all_cuts(BatchNormOptions(kFeatures).momentum(0.37).eps(0.5), torch::kDouble, kDouble);
}

TEST(SyncBatchNorm, MoreColumnsThanOneBlock) {
  compare<torch::nn::BatchNorm1d>(BatchNormOptions(131), {kSamples, 131}, cuts()[1], torch::kDouble,
                                  kDouble);
}

// What the equalities above are worth: batch norm of the own rows alone is far off.
TEST(SyncBatchNorm, DiffersFromBatchNormOfTheShare) {
  const at::Tensor x = same_everywhere(1, {kSamples, kFeatures});
  torch::nn::BatchNorm1d local(kFeatures), reference(kFeatures);
  local->to(torch::kDouble);
  reference->to(torch::kDouble);
  const double error = relative_error(local->forward(own_rows(x)), own_rows(reference->forward(x)));
  if (world()->size() == 1) {
    EXPECT_EQ(error, 0);
  } else {
    EXPECT_GT(error, 1e-3);
  }
}

TEST(SyncBatchNorm, EvaluationNeedsNoOtherRank) {
  SyncBatchNorm norm = make_norm();
  norm->forward(own_input(same_everywhere(1, {kSamples, kFeatures}, 2)));
  norm->eval();
  if (world()->rank() ==
      world()->size() - 1) {  // a hang or a mixed-up collective if it communicated
    const at::Tensor x = same_everywhere(2, {1, kFeatures}).to(test_device());
    const Pass pass = run(norm, x, torch::ones_like(x));
    const at::Tensor scale = 1 / (norm->running_var + 1e-5).sqrt();
    expect_close(pass.y, (x - norm->running_mean) * scale, kDouble, "y");
    expect_close(pass.dx, scale.unsqueeze(0), kDouble, "dx");
    EXPECT_EQ(norm->forward(x.narrow(0, 0, 0)).sizes(), at::IntArrayRef({0, kFeatures}));
  }
  EXPECT_EQ(norm->num_batches_tracked.item<int64_t>(), 1);
  world()->barrier();
}

TEST(SyncBatchNorm, TwoForwardsBeforeTwoBackwards) {
  const BatchNormOptions options(kFeatures);
  SyncBatchNorm norm = make_norm(options);
  torch::nn::BatchNorm1d reference(options);
  reference->to(torch::kDouble);
  std::vector<at::Tensor> x, x_own, y, y_own;
  for (int i = 0; i < 2; ++i) {
    x.push_back(same_everywhere(10 + i, {kSamples + 4 * i, kFeatures}, i).requires_grad_());
    x_own.push_back(own_input(x.back()).detach().clone().requires_grad_());
    y.push_back(reference->forward(x.back()));
    y_own.push_back(norm->forward(x_own.back()));
  }
  for (size_t i : {0, 1}) {
    const at::Tensor dy = same_everywhere(20, y[i].sizes());
    y[i].backward(dy);
    y_own[i].backward(own_input(dy));
    expect_close(x_own[i].grad(), own_rows(x[i].grad()), kDouble, "dx");
  }
  expect_equal_state(norm, reference, kDouble);
}

TEST(SyncBatchNorm, OneOutputUsedTwice) {
  const at::Tensor x = same_everywhere(1, {kSamples, kFeatures});
  SyncBatchNorm norm = make_norm();
  torch::nn::BatchNorm1d reference(kFeatures);
  reference->to(torch::kDouble);
  const at::Tensor whole = x.clone().requires_grad_();
  const at::Tensor own = own_input(x).clone().requires_grad_();
  const at::Tensor y = reference->forward(whole), y_own = norm->forward(own);
  (y * y.exp()).sum().backward();
  (y_own * y_own.exp()).sum().backward();
  expect_close(own.grad(), own_rows(whole.grad()), kDouble, "dx");
}

TEST(SyncBatchNorm, NonContiguousInputAndGradient) {
  const BatchNormOptions options(kFeatures);
  for (const bool image : {false, true}) {
    const std::vector<int64_t> sizes = image ? std::vector<int64_t>{kFeatures, 3, kSamples}
                                             : std::vector<int64_t>{kFeatures, kSamples};
    const at::Tensor x = same_everywhere(1, sizes, 2).movedim(-1, 0);  // (n, C) or (n, C, 3)
    const at::Tensor dy = same_everywhere(2, sizes).movedim(-1, 0);
    EXPECT_FALSE(x.is_contiguous());
    SyncBatchNorm norm = make_norm(options);
    torch::nn::BatchNorm1d reference(options);
    reference->to(torch::kDouble);
    const Pass expected = run(reference, x, dy);
    const at::Tensor leaf = own_input(x).detach().requires_grad_();
    EXPECT_FALSE(leaf.is_contiguous());
    const at::Tensor y = norm->forward(leaf);
    y.backward(own_input(dy));
    expect_close(y, own_rows(expected.y), kDouble, "y");
    expect_close(leaf.grad(), own_rows(expected.dx), kDouble, "dx");
    expect_equal_state(norm, reference, kDouble);
  }
}

TEST(SyncBatchNorm, StridedParameters) {
  SyncBatchNorm strided = make_norm(), plain = make_norm();
  const at::Tensor table =
      torch::arange(2 * kFeatures, torch::dtype(torch::kDouble).device(test_device()))
          .view({kFeatures, 2});
  strided->weight.set_data(table.select(1, 0));
  strided->bias.set_data(torch::ones({1}, table.options()).expand({kFeatures}));
  set_parameters(plain, strided->weight, strided->bias);
  const at::Tensor x = torch::randn({7, kFeatures}, table.options());
  const at::Tensor dy = torch::randn_like(x);
  const Pass expected = run(plain, x, dy), found = run(strided, x, dy);
  expect_close(found.y, expected.y, kDouble, "y");
  expect_close(found.dx, expected.dx, kDouble, "dx");
}

TEST(SyncBatchNorm, OneSampleThrowsOnEveryRank) {
  SyncBatchNorm norm(BatchNormOptions(kFeatures), world());
  const bool last = world()->rank() + 1 == world()->size();
  const at::Tensor x = torch::ones({last ? 1 : 0, kFeatures});
  EXPECT_THROW(norm->forward(x), UsageError);
  EXPECT_EQ(norm->num_batches_tracked.item<int64_t>(), 0);
  expect_same_bits(norm->running_var, torch::ones({kFeatures}), "running_var");
}

TEST(SyncBatchNorm, NoSampleAnywhereIsNoError) {
  for (const std::vector<int64_t>& sizes :
       std::vector<std::vector<int64_t>>{{0, kFeatures}, {0, kFeatures, 3, 2}, {4, kFeatures, 0}}) {
    for (const bool cumulative : {false, true}) {
      BatchNormOptions options(kFeatures);
      if (cumulative) options.momentum(std::nullopt);
      SyncBatchNorm norm = make_norm(options);
      torch::nn::BatchNorm1d reference(options);
      const at::Tensor x = torch::ones(sizes, torch::kDouble).to(test_device()).requires_grad_();
      const at::Tensor y = norm->forward(x);
      EXPECT_EQ(y.sizes(), at::IntArrayRef(sizes));
      y.sum().backward();
      EXPECT_EQ(x.grad().sizes(), at::IntArrayRef(sizes));
      expect_close(norm->weight.grad(), torch::zeros({kFeatures}), 0, "dγ");
      reference->forward(torch::ones({0, kFeatures}));
      expect_same_bits(norm->running_mean.to(at::kFloat), reference->running_mean, "running_mean");
      expect_same_bits(norm->running_var.to(at::kFloat), reference->running_var, "running_var");
      EXPECT_EQ(norm->num_batches_tracked.item<int64_t>(),
                reference->num_batches_tracked.item<int64_t>());
    }
  }
}

void expect_message(const std::function<void()>& act, const std::vector<std::string>& parts) {
  try {
    act();
    ADD_FAILURE() << "no error; expected one that says " << testing::PrintToString(parts);
  } catch (const Error& error) {
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
}

TEST(SyncBatchNorm, RefusesWhatItCannotTake) {
  expect_message([] { SyncBatchNorm(BatchNormOptions(4), nullptr); }, {"communicator", "null"});
  expect_message([] { SyncBatchNorm(BatchNormOptions(0), world()); }, {"one feature", "found 0"});
  SyncBatchNorm norm(BatchNormOptions(kFeatures), world());
  for (const bool training : {true, false}) {
    norm->train(training);
    expect_message([&] { norm->forward(torch::ones({4, 6})); }, {"(n, 5", "5 features", "[4, 6]"});
    expect_message([&] { norm->forward(torch::ones({5})); }, {"(n, 5", "found [5]"});
    expect_message([&] { norm->forward(at::Tensor()); }, {"undefined"});
    expect_message([&] { norm->forward(torch::ones({4, 5}, at::kLong)); }, {"found Long"});
    expect_message([&] { norm->forward(torch::ones({4, 5}, at::kDouble)); }, {"Double", "Float"});
    norm->to(at::kBFloat16);
    expect_message([&] { norm->forward(torch::ones({4, 5})); }, {"Float", "BFloat16"});
    expect_message([&] { norm->forward(torch::ones({4, 5}, at::kHalf)); }, {"Half", "BFloat16"});
    norm->to(at::kFloat);
  }
}

TEST(SyncBatchNorm, PrintsItsOptions) {
  std::ostringstream text;
  text << SyncBatchNorm(BatchNormOptions(7).momentum(std::nullopt).affine(false), world());
  EXPECT_EQ(text.str(),
            "syncbn::SyncBatchNorm(7, eps=1e-05, momentum=None, affine=false, "
            "track_running_stats=true, ranks=" +
                std::to_string(world()->size()) + ")");
}

template <class From, class To>
void exchange_state(From& from, To& to) {
  std::stringstream archive;
  torch::save(from, archive);
  torch::load(to, archive);
}

TEST(SyncBatchNorm, StateDictsAreInterchangeable) {
  const at::Tensor x = same_everywhere(1, {kSamples, kFeatures}, 4);
  torch::nn::BatchNorm1d first(kFeatures), last(kFeatures);
  first->to(torch::kDouble);
  set_parameters(first, same_everywhere(2, {kFeatures}), same_everywhere(3, {kFeatures}));
  first->forward(x);
  SyncBatchNorm norm(BatchNormOptions(kFeatures), world());
  norm->to(torch::kDouble);
  last->to(torch::kDouble);
  exchange_state(first, norm);  // with the tensors comes their device
  exchange_state(norm, last);
  norm->to(test_device());
  for (const auto& entry : first->named_parameters()) {
    expect_same_bits(norm->named_parameters()[entry.key()], entry.value(), entry.key());
    expect_same_bits(last->named_parameters()[entry.key()], entry.value(), entry.key());
  }
  for (const auto& entry : first->named_buffers()) {
    expect_same_bits(norm->named_buffers()[entry.key()], entry.value(), entry.key());
    expect_same_bits(last->named_buffers()[entry.key()], entry.value(), entry.key());
  }
  EXPECT_EQ(norm->named_buffers().size(), first->named_buffers().size());
  first->eval();
  norm->eval();
  expect_close(norm->forward(x.to(test_device())), first->forward(x), kDouble, "y");
}

TEST(SyncBatchNorm, CloneHasTensorsOfItsOwn) {
  const at::Tensor x = own_input(same_everywhere(1, {kSamples, kFeatures}, 4));
  SyncBatchNorm norm = make_norm();
  norm->forward(x);
  const at::Tensor mean = norm->running_mean.clone();
  SyncBatchNorm copy(std::dynamic_pointer_cast<SyncBatchNormImpl>(norm->clone()));
  expect_same_bits(copy->running_mean, mean, "the copy's running_mean");
  copy->forward(x + 1);
  EXPECT_EQ(copy->num_batches_tracked.item<int64_t>(), 2);
  EXPECT_EQ(norm->num_batches_tracked.item<int64_t>(), 1);
  expect_same_bits(norm->running_mean, mean, "the original's running_mean");
}

/// Two norm layers in a user's own model, with Norm(features) as its norm.
template <class MakeNorm>
torch::nn::Sequential make_model(MakeNorm&& norm) {
  torch::manual_seed(11);
  torch::nn::Sequential model(torch::nn::Linear(4, 7), norm(7), torch::nn::ReLU(),
                              torch::nn::Linear(7, 6), norm(6), torch::nn::Tanh(),
                              torch::nn::Linear(6, 3));
  model->to(torch::kDouble);
  return model;
}

TEST(SyncBatchNorm, TrainsInsideASequential) {
  constexpr int kSteps = 10;
  auto model = make_model([](int64_t c) { return SyncBatchNorm(BatchNormOptions(c), world()); });
  model->to(test_device());
  auto whole = make_model([](int64_t c) { return torch::nn::BatchNorm1d(c); });
  torch::optim::SGD optimizer(model->parameters(), 0.5), reference(whole->parameters(), 0.5);
  for (int step = 0; step < kSteps; ++step) {
    const at::Tensor x = same_everywhere(100 + step, {kSamples, 4});
    const at::Tensor target = x.narrow(1, 0, 3).argmax(1);
    const auto loss_of = [&](torch::nn::Sequential& m, const at::Tensor& in,
                             const at::Tensor& out) {
      return torch::nn::functional::cross_entropy(
                 m->forward(in), out,
                 torch::nn::functional::CrossEntropyFuncOptions().reduction(torch::kSum)) /
             double{kSamples};
    };
    optimizer.zero_grad();
    reference.zero_grad();
    const at::Tensor expected = loss_of(whole, x, target);
    expected.backward();
    reference.step();
    const Cut& cut = cuts()[static_cast<size_t>(step) % cuts().size()];
    const at::Tensor loss = loss_of(model, own_input(x, cut), own_input(target, cut));
    loss.backward();
    reduce_gradients(model->parameters(), world());
    optimizer.step();
    expect_close(summed(loss.detach()), expected.detach(), 1e-11, "loss");
  }
  for (const auto& entry : whole->named_parameters()) {
    expect_close(model->named_parameters()[entry.key()], entry.value(), 1e-10, entry.key());
  }
  for (const auto& entry : whole->named_buffers()) {
    expect_close(model->named_buffers()[entry.key()], entry.value(), 1e-10, entry.key());
  }
}

}  // namespace
}  // namespace syncbn
