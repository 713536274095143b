// Gradients that are sums over samples: right, and the same bits however shards are dealt out to
// ranks, whatever the number of threads, and wherever their rows lie in memory.
#include "nn/shard_gradients.hpp"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <limits>

#include "base/random.hpp"
#include "nn/sum_loops.hpp"
#include "support/close.hpp"
#include "support/mpi_main.hpp"
#include "support/shards.hpp"

namespace syncbn {
namespace {

using Sizes = std::vector<int64_t>;

const std::vector<Sizes> kBatches = {
    {0},
    {1},
    {0, 0, 3},
    {8, 8, 8, 8, 8, 8, 8},
    {511, 2, 0, 0},
    {1, 0, 37, 5, 513},
    {600, 1, 1, 300, 0, 212, 0, 400},  // nodes in several units
    {1300, 700},
    {63, 1, 64, 65, 127, 2, 1, 1, 0, 9, 16, 17, 3, 33, 40, 12},
};

int64_t sum_of(const Sizes& sizes) {
  int64_t sum = 0;
  for (const int64_t size : sizes) sum += size;
  return sum;
}

double rounding(at::ScalarType dtype) {  // to nearest, relative
  return dtype == at::kFloat ? std::numeric_limits<float>::epsilon() / 2.0
                             : std::numeric_limits<double>::epsilon() / 2.0;
}

at::Tensor random(int64_t rows, int64_t columns, at::ScalarType dtype) {
  return torch::randn({rows, columns}, at::kDouble).to(dtype).to(test_device());
}

/// Whole numbers so small that every order of adding their products is exact.
at::Tensor whole_numbers(int64_t rows, int64_t columns, at::ScalarType dtype) {
  return torch::randint(-8, 9, {rows, columns}, at::kDouble).to(dtype).to(test_device());
}

/// A copy that begins `offset` elements behind where memory for a tensor begins.
at::Tensor moved(const at::Tensor& t, int64_t offset) {
  at::Tensor flat = torch::zeros({offset + t.numel()}, t.options());
  at::Tensor copy = flat.narrow(0, offset, t.numel()).view(t.sizes());
  copy.copy_(t);
  return copy;
}

/// Places for this rank's nodes, each `offset` elements into memory of its own.
std::vector<at::Tensor> places(const Held& held, at::IntArrayRef shape, at::TensorOptions options,
                               int64_t offset) {
  std::vector<at::Tensor> nodes;
  for (size_t k = 0; k < held.sharding.node_sums().size(); ++k) {
    nodes.push_back(moved(torch::full(shape, 77, options), offset));
  }
  return nodes;
}

at::Tensor weight_gradient(const at::Tensor& dy, const at::Tensor& x, const Sizes& sizes, int ranks,
                           int64_t offset = 0) {
  return total_over_ranks(sizes, ranks, [&](const Held& held) {
    auto nodes = places(held, {dy.size(1), x.size(1)}, x.options(), offset);
    WeightGradient gradient(held.sharding);
    const at::Tensor own_dy = moved(held.of(dy), 3 * offset), own_x = moved(held.of(x), offset);
    gradient(own_dy, own_x, held.shards, nodes);
    std::vector<at::Tensor> first;
    for (const at::Tensor& node : nodes) first.push_back(node.clone());
    gradient(own_dy, own_x, held.shards, nodes);  // writes, does not add
    for (size_t k = 0; k < nodes.size(); ++k) expect_same_bits(nodes[k], first[k], "again");
    return nodes;
  });
}

class Gradients : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { torch::manual_seed(4); }
};
INSTANTIATE_TEST_SUITE_P(Types, Gradients, testing::Values(at::kFloat, at::kDouble),
                         [](const auto& type) { return std::string(at::toString(type.param)); });

// Exactly: sums of at most 2000 products of at most 64 are whole numbers below 2²⁴.
TEST_P(Gradients, OfWeightsAreTheProductsForAllSizes) {
  const RandomStream stream(3, Stream::kSynthetic, 0);
  const auto check = [&](int64_t in, int64_t out, const Sizes& sizes) {
    const int64_t n = sum_of(sizes);
    const at::Tensor x = whole_numbers(n, in, GetParam()), dy = whole_numbers(n, out, GetParam());
    const at::Tensor expected = at::mm(dy.cpu().to(at::kDouble).t(), x.cpu().to(at::kDouble));
    expect_same_bits(weight_gradient(dy, x, sizes, 1), expected.to(GetParam()),
                     concat(n, " rows, ", in, " to ", out));
  };
  uint64_t drawn = 0;
  for (const Sizes& sizes : kBatches) {
    for (int i = 0; i < 20; ++i) {
      const auto in = 1 + static_cast<int64_t>(stream.below(70, drawn++));
      const auto out = 1 + static_cast<int64_t>(stream.below(70, drawn++));
      check(in, out, sizes);
    }
    check(784, 128, sizes);
  }
  for (int64_t width = 1; width <= 70; ++width) {
    check(width, 7, {3, 0, 5});
    check(9, width, {3, 0, 5});
  }
}

// Each product is rounded once and then added at most n + log₂ V times: a relative error of at most
// (n + log₂ V + 1)·u/(1 − …) of the sum of magnitudes (Higham, "Accuracy and stability of numerical
// algorithms", 2002, section 3.1).
TEST_P(Gradients, OfWeightsAreWithinTheBoundOfTheirRoundings) {
  for (const Sizes& sizes : kBatches) {
    const int64_t n = sum_of(sizes);
    for (const auto& [in, out] : {std::pair<int64_t, int64_t>{784, 128}, {37, 20}, {1, 1}}) {
      const at::Tensor x = random(n, in, GetParam()), dy = random(n, out, GetParam());
      const at::Tensor wide_x = x.cpu().to(at::kDouble), wide_dy = dy.cpu().to(at::kDouble);
      const at::Tensor actual = weight_gradient(dy, x, sizes, 1).cpu().to(at::kDouble);
      const at::Tensor error = (actual - at::mm(wide_dy.t(), wide_x)).abs();
      // (+ n + 1 for float64, whose reference errs alike)
      const double steps = 2.0 * static_cast<double>(n + 4 + 1), u = rounding(GetParam());
      const at::Tensor bound =
          steps * u / (1 - steps * u) * at::mm(wide_dy.abs().t(), wide_x.abs());
      EXPECT_TRUE((error <= bound).all().item<bool>())
          << n << " rows, " << in << " to " << out << ", error " << error.max().item<double>();
    }
  }
}

TEST_P(Gradients, OfWeightsHaveTheSameBitsHoweverShardsAreDealtOut) {
  const int before = at::get_num_threads();
  for (const Sizes& sizes : kBatches) {
    const int64_t n = sum_of(sizes);
    for (const auto& [in, out] : {std::pair<int64_t, int64_t>{784, 40}, {131, 7}, {38, 65}}) {
      const at::Tensor x = random(n, in, GetParam()), dy = random(n, out, GetParam());
      std::vector<at::Tensor> shards;  // each by itself
      for (int v = 0; v < static_cast<int>(sizes.size()); ++v) {
        const Held held(sizes, v, static_cast<int>(sizes.size()));
        shards.push_back(
            weight_gradient(held.of(dy), held.of(x), {sizes[static_cast<size_t>(v)]}, 1));
      }
      const at::Tensor expected = tree_total(shards);
      for (const int ranks : {1, 2, 3, 4, 5, 7, 8, 16}) {  // some of them with no shard
        for (const int threads : {1, 2}) {
          const int64_t offset = threads == 1 ? ranks % 4 : 17;
          at::set_num_threads(threads);
          expect_same_bits(weight_gradient(dy, x, sizes, ranks, offset), expected,
                           concat(n, " rows, ", in, " to ", out, ", ", ranks, " ranks, ", threads,
                                  " threads, ", offset, " elements off"));
        }
      }
    }
  }
  at::set_num_threads(before);
}

// Shards change with the batch's size: the last of an epoch, and back.
TEST_P(Gradients, OfWeightsFollowTheShards) {
  const Sizes large = {600, 10, 0, 300}, small = {3, 0, 2, 4};
  const Held held_large(large, 0, 1), held_small(small, 0, 1);
  WeightGradient gradient(held_large.sharding);
  for (const Held* held : {&held_large, &held_small, &held_large}) {
    const int64_t n = held->rows.size();
    const at::Tensor x = random(n, 70, GetParam()), dy = random(n, 9, GetParam());
    std::vector<at::Tensor> nodes = {torch::empty({9, 70}, x.options())};
    gradient(dy, x, held->shards, nodes);
    expect_same_bits(nodes[0], weight_gradient(dy, x, held == &held_small ? small : large, 1),
                     concat(n, " rows"));
  }
}

at::Tensor column_sums_of(const at::Tensor& dy, const std::vector<Range>& rows) {
  at::Tensor parts = torch::full({static_cast<int64_t>(rows.size()), dy.size(1)}, 77, dy.options());
  column_sums(dy, rows, parts);
  return parts;
}

// Added in float64 and rounded once: half an ulp off, and n roundings of float64.
TEST_P(Gradients, OfBiasesAreRoundedOnce) {
  for (const Sizes& sizes : kBatches) {
    for (const int64_t columns : {1, 7, 64, 65, 200}) {
      const Held held(sizes, 0, 1);
      const at::Tensor dy = random(held.rows.size(), columns, GetParam());
      const at::Tensor parts = column_sums_of(dy, held.shards).cpu().to(at::kDouble);
      for (size_t s = 0; s < sizes.size(); ++s) {
        const Range r = held.shards[s];
        const at::Tensor wide = dy.narrow(0, r.begin, r.size()).cpu().to(at::kDouble);
        const at::Tensor sum = wide.sum(0), error = (parts[static_cast<int64_t>(s)] - sum).abs();
        const double wide_steps = 2.0 * static_cast<double>(r.size()) * rounding(at::kDouble);
        const at::Tensor bound = rounding(GetParam()) * sum.abs() + wide_steps * wide.abs().sum(0);
        EXPECT_TRUE((error <= bound).all().item<bool>())
            << "shard " << s << " of " << r.size() << " rows, " << columns << " columns";
      }
    }
  }
}

TEST_P(Gradients, OfBiasesHaveTheSameBitsHoweverShardsAreDealtOut) {
  const int before = at::get_num_threads();
  for (const Sizes& sizes : kBatches) {
    for (const int64_t columns : {1, 7, 130}) {
      const at::Tensor dy = random(sum_of(sizes), columns, GetParam());
      std::vector<at::Tensor> shards;
      for (int v = 0; v < static_cast<int>(sizes.size()); ++v) {
        const Held held(sizes, v, static_cast<int>(sizes.size()));
        shards.push_back(column_sums_of(held.of(dy).clone(), held.shards)[0]);
      }
      const at::Tensor expected = tree_total(shards);
      for (const int ranks : {1, 2, 3, 4, 5, 7, 8, 16}) {
        at::set_num_threads(1 + ranks % 2);
        const at::Tensor total = total_over_ranks(sizes, ranks, [&](const Held& held) {
          at::Tensor parts = column_sums_of(moved(held.of(dy), ranks), held.shards);
          auto nodes = places(held, {columns}, dy.options(), ranks);
          sum_shards(held.sharding.node_sums(), parts, nodes);
          return nodes;
        });
        expect_same_bits(total, expected, concat(columns, " columns, ", ranks, " ranks"));
      }
    }
  }
  at::set_num_threads(before);
}

/// Σ x² by the definition: sixteen sums, of every sixteenth element each, then these in order. This
/// file is compiled for any CPU, so that no product is contracted with its sum.
template <class T>
double sixteen_sums(const std::vector<T>& x) {
  double lanes[16] = {}, sum = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    lanes[i % 16] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  for (const double lane : lanes) sum += lane;
  return sum;
}

template <class T>
void check_square_sum() {
  const RandomStream stream(8, Stream::kSynthetic, 0);
  for (const size_t count : {0, 1, 15, 16, 17, 33, 1000, 100003}) {
    std::vector<T> x(count);
    long double exact = 0;
    for (size_t i = 0; i < count; ++i) {
      x[i] = static_cast<T>(stream.normal(i) * std::pow(10.0, static_cast<double>(i % 7) - 3));
      exact += static_cast<long double>(x[i]) * static_cast<long double>(x[i]);
    }
    const double expected = sixteen_sums(x);
    const auto wide = static_cast<double>(exact);
    EXPECT_NEAR(expected, wide, static_cast<double>(count) / 16 * 2.3e-16 * wide);
    for (size_t offset = 0; offset < 5; ++offset) {
      std::vector<T> memory(offset, 0);
      memory.insert(memory.end(), x.begin(), x.end());
      EXPECT_EQ(loops::square_sum(memory.data() + offset, static_cast<int64_t>(count)), expected)
          << count << " elements, " << offset << " off";
    }
  }
}

TEST(Loops, SquareSumIsOneSumEverywhere) {
  check_square_sum<float>();
  check_square_sum<double>();
}

}  // namespace
}  // namespace syncbn
