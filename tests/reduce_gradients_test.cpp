// reduce_gradients: sums, layouts and dtypes, and what it says when the ranks' gradients differ.
#include "comm/reduce_gradients.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <string>
#include <vector>

#include "support/batch_shares.hpp"
#include "support/close.hpp"

namespace syncbn {
namespace {

int rank() {
  return world()->rank();
}
int ranks() {
  return world()->size();
}

at::Tensor with_gradient(const at::Tensor& gradient) {
  const at::Tensor parameter = torch::zeros(gradient.sizes(), gradient.options()).requires_grad_();
  parameter.mutable_grad() = gradient;
  return parameter;
}

at::Tensor without_gradient(at::IntArrayRef sizes) {
  return torch::zeros(sizes).to(test_device()).requires_grad_();
}

/// Numbers that differ by rank; their sum over the ranks is that of the same call on each.
at::Tensor numbers_of(int r, at::IntArrayRef sizes) {
  return same_everywhere(100 + r, sizes).to(test_device());
}

at::Tensor sum_of_all(at::IntArrayRef sizes) {
  at::Tensor total = torch::zeros(sizes, torch::kDouble).to(test_device());
  for (int r = 0; r < ranks(); ++r) total += numbers_of(r, sizes);
  return total;
}

TEST(ReduceGradients, SumsEveryLayoutInPlace) {
  const std::vector<int64_t> sizes = {4, 3, 2, 5};
  const at::Tensor own = numbers_of(rank(), sizes);
  std::vector<at::Tensor> gradients = {
      own.clone(), own.contiguous(at::MemoryFormat::ChannelsLast),
      own.transpose(0, 3).contiguous().transpose(0, 3),
      at::stack({own, own}, -1).select(-1, 0),  // every second number of its memory
  };
  std::vector<at::Tensor> parameters;
  for (const at::Tensor& g : gradients) parameters.push_back(with_gradient(g));
  parameters.insert(parameters.begin() + 1, without_gradient({7, 7}));  // frozen everywhere
  const std::vector<int64_t> strides = gradients[2].strides().vec();
  reduce_gradients(parameters, world());
  EXPECT_FALSE(parameters[1].grad().defined());
  for (const at::Tensor& g : gradients) expect_close(g, sum_of_all(sizes), 1e-14, "sum");
  EXPECT_EQ(gradients[2].strides().vec(), strides);
  EXPECT_TRUE(gradients[0].is_same(parameters[0].grad()));
}

TEST(ReduceGradients, SumsAnExpandedGradient) {
  const at::Tensor parameter = with_gradient(numbers_of(rank(), {1}).expand({3, 4}));
  reduce_gradients({parameter}, world());
  expect_close(parameter.grad(), sum_of_all({1}).expand({3, 4}), 1e-14, "sum");
}

TEST(ReduceGradients, EachDtypeKeepsItsOwn) {
  std::vector<at::Tensor> parameters;
  for (const at::ScalarType type :
       {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kFloat}) {
    parameters.push_back(with_gradient(numbers_of(rank(), {3, 2}).to(type)));
  }
  parameters.push_back(with_gradient(torch::zeros({0, 3}).to(test_device())));
  reduce_gradients(parameters, world());
  const std::vector<double> tolerances = {1e-6, 1e-14, 2e-3, 2e-2, 1e-6, 0};
  for (size_t i = 0; i < parameters.size(); ++i) {
    EXPECT_EQ(parameters[i].grad().scalar_type(), parameters[i].scalar_type());
    expect_close(parameters[i].grad(), i == 5 ? torch::zeros({0, 3}) : sum_of_all({3, 2}),
                 tolerances[i], "sum");
  }
}

// In float16 itself 2048 + 1 + 1 is 2048, in whatever order the ones come after it.
TEST(ReduceGradients, Float16IsSummedInFloat32) {
  const double own = rank() == 0 ? 2048 : 1;
  const at::Tensor parameter = with_gradient(torch::full({4}, own, torch::kHalf).to(test_device()));
  reduce_gradients({parameter}, world());
  const at::Tensor expected = torch::full({4}, 2047. + ranks(), torch::kDouble).to(torch::kHalf);
  expect_same_bits(parameter.grad(), expected, "sum");
}

TEST(ReduceGradients, LeavesNoTraceInAutograd) {
  const at::Tensor x = torch::ones({2}).to(test_device()).requires_grad_();
  x.mutable_grad() = torch::autograd::grad({x.pow(3).sum()}, {x}, {}, true, true)[0];
  reduce_gradients({x}, world());
  expect_close(x.grad(), torch::full({2}, 3. * ranks(), torch::kDouble), 1e-7, "sum");
}

/// Every rank throws the same sentence.
void expect_refusal(const std::vector<at::Tensor>& parameters,
                    const std::vector<std::string>& parts) {
  std::string message = "nothing was thrown";
  try {
    reduce_gradients(parameters, world());
  } catch (const UsageError& error) {
    message = error.what();
  }
  for (const std::string& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << "no '" << part << "' in: " << message;
  }
  for (const std::string& other : world()->gather_text(message)) EXPECT_EQ(other, message);
}

TEST(ReduceGradients, NamesAGradientThatSomeRanksLack) {
  if (ranks() == 1) return;
  const bool last = rank() + 1 == ranks();
  const at::Tensor some = last ? without_gradient({16, 8}) : with_gradient(numbers_of(0, {16, 8}));
  expect_refusal({without_gradient({3}), some, with_gradient(numbers_of(0, {16}))},
                 {"parameter 1 of 3", "a gradient of Double [16, 8] on rank 0",
                  "no gradient of [16, 8] on rank " + std::to_string(ranks() - 1)});
}

TEST(ReduceGradients, NamesOtherDifferences) {
  if (ranks() == 1) return;
  const bool last = rank() + 1 == ranks();
  expect_refusal({with_gradient(numbers_of(0, {last ? 5 : 4}))},
                 {"parameter 0 of 1", "Double [4]", "Double [5]"});
  expect_refusal({with_gradient(numbers_of(0, {4}).to(last ? at::kFloat : at::kDouble))},
                 {"parameter 0 of 1", "Double [4]", "Float [4]"});
  std::vector<at::Tensor> parameters = {with_gradient(numbers_of(0, {4}))};
  if (last) parameters.push_back(with_gradient(numbers_of(0, {4})));
  expect_refusal(parameters, {"same parameters", "1 on rank 0 and 2 on rank"});
}

TEST(ReduceGradients, RefusesWhatHasNoSum) {
  const at::Tensor table = torch::zeros({4, 2}).to(test_device()).requires_grad_();
  table.mutable_grad() = numbers_of(0, {4, 2}).to(at::kFloat).to_sparse();
  expect_refusal({table}, {"parameter 0 of 1", "[4, 2]", "Sparse"});
  expect_refusal({with_gradient(torch::zeros({3}, at::kComplexFloat).to(test_device()))},
                 {"parameter 0 of 1", "ComplexFloat"});
  EXPECT_THROW(reduce_gradients({}, nullptr), Error);
  EXPECT_THROW(reduce_gradients({at::Tensor()}, world()), Error);
}

TEST(Collectives, SayWhatTheyCannotTakeAndWhatToDo) {
  const at::Tensor t = numbers_of(0, {4, 6});
  const auto says = [&](at::Tensor bad, const std::vector<std::string>& parts) {
    try {
      world()->all_reduce(bad);
      ADD_FAILURE() << "no error; expected one that says " << testing::PrintToString(parts);
    } catch (const Error& error) {
      for (const std::string& part : parts) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
      }
    }
  };
  says(at::Tensor(), {"undefined tensor", "reduce_gradients"});
  says(t.t(), {"sizes [6, 4] and strides [1, 6]", "t.contiguous()"});
  says(t.narrow(1, 0, 1).expand({4, 6}), {"strides [6, 0]", "t.contiguous()"});
  says(t.to_sparse(), {"Sparse", "t.to_dense()"});
  says(t.to(at::kHalf), {"of Half", "t.to(torch::kFloat)"});
  says(t.to(at::kComplexDouble), {"of ComplexDouble", "float64"});
}

TEST(ReduceGradients, OfNothingIsNothing) {
  reduce_gradients({}, world());
  reduce_gradients({without_gradient({2})}, world());
}

}  // namespace
}  // namespace syncbn
