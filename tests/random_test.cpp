#include "base/random.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

namespace syncbn {
namespace {

using Counter = std::array<uint32_t, 4>;
constexpr uint32_t kOnes = 0xFFFFFFFFu;

// The known-answer vectors of Random123 (kat_vectors, philox4x32 with 10 rounds).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// Trained results depend on these: a change of the numbers must not go unnoticed.
TEST(RandomStream, ItsNumbersArePinned) {
  const RandomStream stream(1, Stream::kOrder, 0);
  EXPECT_EQ(stream.permutation(8), (std::vector<int64_t>{6, 2, 4, 5, 1, 3, 7, 0}));
  EXPECT_EQ(stream.block(0), (Counter{0x7a1f60e7, 0x2bb32af9, 0x34f1eaf5, 0x9ccc3b23}));
}

TEST(RandomStream, EachOfSeedStreamIndexAndPositionMatters) {
  std::set<Counter> seen;
  size_t made = 0;
  const auto add = [&](const RandomStream& stream, uint64_t position) {
    seen.insert(stream.block(position));
    ++made;
  };
  for (const uint64_t value : {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{1} << 32}) {
    for (const uint64_t position : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
      add(RandomStream(value, Stream::kInit, 7), position);
      add(RandomStream(7, Stream::kInit, value), position);
      add(RandomStream(7, Stream::kOrder, value), position);
    }
  }
  EXPECT_EQ(seen.size(), made);
  EXPECT_EQ(RandomStream(3, Stream::kSplit, 4).block(5),
            RandomStream(3, Stream::kSplit, 4).block(5));
}

struct Sums {
  double mean = 0, variance = 0, smallest = INFINITY, largest = -INFINITY, lag1 = 0;
};

template <class F>
Sums sums_of(int64_t n, F&& number) {
  Sums s;
  std::vector<double> values(static_cast<size_t>(n));
  for (size_t i = 0; i < values.size(); ++i) values[i] = number(i);
  s.mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(n);
  for (size_t i = 0; i < values.size(); ++i) {
    const double d = values[i] - s.mean;
    s.variance += d * d / static_cast<double>(n);
    if (i > 0) s.lag1 += d * (values[i - 1] - s.mean) / static_cast<double>(n);
    s.smallest = std::min(s.smallest, values[i]);
    s.largest = std::max(s.largest, values[i]);
  }
  return s;
}

// Bounds are five standard errors of n = 200,000 draws.
TEST(RandomStream, UniformMoments) {
  const RandomStream stream(11, Stream::kDropout, 3);
  const Sums s = sums_of(200000, [&](uint64_t i) { return stream.uniform(i); });
  EXPECT_NEAR(s.mean, 0.5, 5 * std::sqrt(1.0 / 12 / 200000));
  EXPECT_NEAR(s.variance, 1.0 / 12, 5 * std::sqrt(1.0 / 180 / 200000));
  EXPECT_NEAR(s.lag1 * 12, 0, 5 / std::sqrt(200000.0));
  EXPECT_GE(s.smallest, 0);
  EXPECT_LT(s.smallest, 1e-4);
  EXPECT_LT(s.largest, 1);
  EXPECT_GT(s.largest, 1 - 1e-4);
}

TEST(RandomStream, NormalMoments) {
  const RandomStream stream(12, Stream::kInit, 3);
  const Sums s = sums_of(200000, [&](uint64_t i) { return stream.normal(i); });
  EXPECT_NEAR(s.mean, 0, 5 / std::sqrt(200000.0));
  EXPECT_NEAR(s.variance, 1, 5 * std::sqrt(2.0 / 200000));
  EXPECT_NEAR(s.lag1, 0, 5 / std::sqrt(200000.0));
  const Sums beyond = sums_of(200000, [&](uint64_t i) { return stream.normal(i) > 1.96 ? 1 : 0; });
  EXPECT_NEAR(beyond.mean, 0.0249979, 5 * std::sqrt(0.025 * 0.975 / 200000));
}

TEST(RandomStream, BelowIsUniformAndInRange) {
  const RandomStream stream(13, Stream::kSplit, 0);
  std::vector<int> counts(7);
  for (uint64_t i = 0; i < 70000; ++i) ++counts.at(stream.below(7, i));
  for (const int count : counts) EXPECT_NEAR(count, 10000, 5 * std::sqrt(10000.0));
  EXPECT_EQ(stream.below(1, 0), 0u);
}

TEST(RandomStream, PermutationIsOne) {
  for (const int64_t n : {0, 1, 2, 3, 1000}) {
    std::vector<int64_t> order = RandomStream(5, Stream::kOrder, 1).permutation(n);
    std::sort(order.begin(), order.end());
    std::vector<int64_t> expected(static_cast<size_t>(n));
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(order, expected);
  }
}

TEST(RandomStream, AllPermutationsOfThreeAreEquallyLikely) {
  std::vector<int> counts(6);
  for (uint64_t epoch = 0; epoch < 6000; ++epoch) {
    const auto order = RandomStream(5, Stream::kOrder, epoch).permutation(3);
    ++counts.at(static_cast<size_t>(order[0] * 2 + (order[1] > order[2] ? 1 : 0)));
  }
  for (const int count : counts) EXPECT_NEAR(count, 1000, 5 * std::sqrt(1000.0 * 5 / 6));
}

}  // namespace
}  // namespace syncbn
