// Layers in canonical mode: what a shard gets does not depend on what else its rank holds, on how
// many threads the rank runs, nor on how shards are dealt out to ranks.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <memory>

#include "nn/layer_norm.hpp"
#include "nn/linear.hpp"
#include "support/close.hpp"
#include "support/mpi_main.hpp"
#include "support/shards.hpp"

namespace syncbn {
namespace {

using Sizes = std::vector<int64_t>;
using Make = std::function<std::unique_ptr<Layer>()>;

/// A layer's parameters, made once: on every rank they lie alike.
struct Weights {
  Weights(const Layer& layer, at::ScalarType dtype) {
    int64_t count = kOffset;
    for (const auto& spec : layer.parameters()) count += numel(spec);
    flat = torch::zeros({count}, at::device(test_device()).dtype(dtype));
    int64_t offset = kOffset;
    for (const auto& spec : layer.parameters()) {
      views.push_back(flat.narrow(0, offset, numel(spec)).view(spec.shape));
      views.back().copy_(spec.initial + 0.1 * torch::randn(spec.shape, at::kDouble));
      offset += numel(spec);
    }
  }
  static constexpr int64_t kOffset = 5;  // as behind another layer's
  at::Tensor flat;
  std::vector<at::Tensor> views;
};

/// What a rank computes of the shards that it holds.
struct Results {
  at::Tensor y, dx;
  std::vector<std::vector<at::Tensor>> gradients;  // of each parameter, per node
};

Results run(const Make& make, const Weights& weights, const Held& held, const at::Tensor& x,
            const at::Tensor& dy) {
  const auto layer = make();
  Binding binding;
  binding.sharding = held.sharding;
  binding.parameters = weights.views;
  for (const at::Tensor& view : weights.views) {
    std::vector<at::Tensor> nodes;
    for (size_t k = 0; k < held.sharding.node_sums().size(); ++k) {
      nodes.push_back(torch::full_like(view, 77));
    }
    binding.gradients.push_back(nodes);
  }
  layer->bind(binding);
  StepContext context;
  context.rows = held.rows;
  context.batch = x.size(0);
  context.shards = &held.shards;
  const at::Tensor own_x = held.of(x).clone();
  Results results;
  results.y = torch::full({held.rows.size(), layer->out_features()}, 77, x.options());
  results.dx = torch::full_like(own_x, 77);
  for (int i = 0; i < 2; ++i) {  // the first may try out what the second does
    at::Tensor own_dy = held.of(dy).clone();
    layer->forward(own_x, results.y, context);
    layer->backward(own_x, results.y, own_dy, results.dx, context);
  }
  results.gradients = binding.gradients;
  return results;
}

/// Every dealing out of these shards to ranks, with one thread and with two, against each shard on
/// a rank of its own.
void expect_shards_alone(const Make& make, const Sizes& sizes, at::ScalarType dtype,
                         const std::vector<int>& all_ranks) {
  torch::manual_seed(6);
  const auto layer = make();
  const Weights weights(*layer, dtype);
  const auto shards = static_cast<int>(sizes.size());
  const int64_t n = Held(sizes, 0, 1).rows.size();
  const auto options = at::device(test_device()).dtype(dtype);
  const at::Tensor x = torch::randn({n, layer->in_features()}, options);
  const at::Tensor dy = torch::randn({n, layer->out_features()}, options);
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  at::Tensor y = torch::empty_like(dy), dx = torch::empty_like(x);
  std::vector<std::vector<at::Tensor>> parts(weights.views.size());  // per parameter, per shard
  for (int v = 0; v < shards; ++v) {
    const Held held(sizes, v, shards);
    const Results alone = run(make, weights, held, x, dy);
    held.of(y).copy_(alone.y);
    held.of(dx).copy_(alone.dx);
    for (size_t p = 0; p < parts.size(); ++p) parts[p].push_back(alone.gradients[p][0]);
  }
  for (const int ranks : all_ranks) {
    for (const int threads : {1, 2}) {
      at::set_num_threads(threads);
      const std::string what =
          concat(layer->in_features(), " to ", layer->out_features(), ", ", ranks, " ranks, ",
                 threads, " threads, shards of ", testing::PrintToString(sizes));
      std::vector<Results> results;
      for (int r = 0; r < ranks; ++r) {
        const Held held(sizes, r, ranks);
        results.push_back(run(make, weights, held, x, dy));
        expect_same_bits(results.back().y, held.of(y), "y of " + what);
        expect_same_bits(results.back().dx, held.of(dx), "dx of " + what);
      }
      for (size_t p = 0; p < parts.size(); ++p) {
        const at::Tensor total = total_over_ranks(sizes, ranks, [&](const Held& held) {
          return results[static_cast<size_t>(held.sharding.rank)].gradients[p];
        });
        expect_same_bits(total, tree_total(parts[p]), concat("gradient ", p, " of ", what));
      }
    }
  }
  at::set_num_threads(before);
}

const std::vector<Sizes> kMixed = {
    {1, 2, 3, 5, 16, 40, 0, 1, 1, 40, 3, 2, 5, 0, 16, 2}, {40, 1}, {0, 0, 5}};

class Shards : public testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Types, Shards, testing::Values(at::kFloat, at::kDouble),
                         [](const auto& type) { return std::string(at::toString(type.param)); });

Make linear(int64_t in, int64_t out) {
  return [=, init = initial_linear(in, out, {}, 1, 0)] {
    return std::make_unique<Linear>(in, out, init);
  };
}

TEST_P(Shards, OfALinearLayerStandForThemselves) {
  for (const auto& [in, out] :
       {std::pair<int64_t, int64_t>{784, 37}, {37, 20}, {20, 10}, {20, 784}}) {
    for (const int64_t rows : {1, 2, 3, 5, 16, 40}) {
      expect_shards_alone(linear(in, out), Sizes(16, rows), GetParam(), {1, 2, 5});
    }
    for (const Sizes& sizes : kMixed) {
      expect_shards_alone(linear(in, out), sizes, GetParam(), {1, 2, 4});
    }
  }
}

TEST_P(Shards, OfALayerNormStandForThemselves) {
  for (const int64_t features : {1, 20, 37, 512}) {
    const Make make = [=] { return std::make_unique<LayerNorm>(features, 1e-5); };
    expect_shards_alone(make, Sizes(16, 3), GetParam(), {1, 2, 3, 5, 8, 16});
    for (const Sizes& sizes : kMixed) {
      expect_shards_alone(make, sizes, GetParam(), {1, 2, 3, 4, 7});
    }
  }
}

TEST_P(Shards, OfALayerNormAddUpToAutogradsGradients) {
  torch::manual_seed(7);
  const double bound = GetParam() == at::kFloat ? 2e-6 : 1e-14;
  for (const Sizes& sizes : kMixed) {
    const Make make = [] { return std::make_unique<LayerNorm>(37, 1e-5); };
    const Weights weights(*make(), GetParam());
    const Held held(sizes, 0, 1);
    const auto options = at::device(test_device()).dtype(GetParam());
    const at::Tensor x = torch::randn({held.rows.size(), 37}, options);
    const at::Tensor dy = torch::randn({held.rows.size(), 37}, options);
    const Results ours = run(make, weights, held, x, dy);
    const auto wide = [](const at::Tensor& t) {
      return t.cpu().to(at::kDouble).set_requires_grad(true);
    };
    const at::Tensor in = wide(x), gamma = wide(weights.views[0]), beta = wide(weights.views[1]);
    const at::Tensor y = torch::layer_norm(in, {37}, gamma, beta, 1e-5);
    y.backward(dy.cpu().to(at::kDouble));
    expect_close(ours.y, y, bound, "y");
    expect_close(ours.dx, in.grad(), bound, "dx");
    expect_close(ours.gradients[0][0], gamma.grad(), bound, "gradient of gamma");
    expect_close(ours.gradients[1][0], beta.grad(), bound, "gradient of beta");
  }
}

}  // namespace
}  // namespace syncbn
