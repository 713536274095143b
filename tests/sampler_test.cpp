#include "data/sampler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <tuple>

#include "base/error.hpp"

namespace syncbn {
namespace {

std::vector<int64_t> rows_of(const BatchSampler& sampler, int64_t step, Range rows) {
  const int64_t* first = sampler.samples(step, rows);
  return {first, first + rows.size()};
}

std::vector<int64_t> batch_of(const BatchSampler& sampler, int64_t step) {
  return rows_of(sampler, step, {0, sampler.batch_size(step)});
}

/// All samples of an epoch, in the order of training.
std::vector<int64_t> epoch_of(BatchSampler& sampler, int64_t epoch) {
  sampler.start_epoch(epoch);
  std::vector<int64_t> all;
  for (int64_t step = 0; step < sampler.steps_per_epoch(); ++step) {
    const auto batch = batch_of(sampler, step);
    all.insert(all.end(), batch.begin(), batch.end());
  }
  return all;
}

TEST(Share, SharesTileTheBatchAndDifferByAtMostOne) {
  for (const int64_t batch : {0, 1, 2, 3, 7, 64, 100}) {
    for (int ranks = 1; ranks <= 9; ++ranks) {
      int64_t end = 0, least = batch, most = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const Range share = share_of(batch, rank, ranks);
        EXPECT_EQ(share.begin, end);
        end = share.end;
        least = std::min(least, share.size());
        most = std::max(most, share.size());
      }
      EXPECT_EQ(end, batch);
      EXPECT_LE(most - least, 1);
    }
  }
}

// n, batch: dividing, not dividing, larger than n, one.
using Sizes = std::tuple<int64_t, int64_t>;
class Epoch : public testing::TestWithParam<Sizes> {};
INSTANTIATE_TEST_SUITE_P(Sampler, Epoch,
                         testing::Values(Sizes{60, 12}, Sizes{103, 10}, Sizes{5, 64}, Sizes{9, 1}));

TEST_P(Epoch, SlicesOfAnyRankCountMakeUpTheBatchOfOne) {
  const auto [n, batch] = GetParam();
  BatchSampler one(n, batch, 3, false), many(n, batch, 3, false);
  one.start_epoch(2);
  many.start_epoch(2);
  for (int ranks = 1; ranks <= 16; ++ranks) {
    for (int64_t step = 0; step < one.steps_per_epoch(); ++step) {
      std::vector<int64_t> joined;
      for (int rank = 0; rank < ranks; ++rank) {
        const auto share =
            rows_of(many, step, share_of(many.batch_size(step), rank, ranks));  // may be empty
        joined.insert(joined.end(), share.begin(), share.end());
      }
      EXPECT_EQ(joined, batch_of(one, step)) << ranks << " ranks, step " << step;
    }
  }
}

TEST_P(Epoch, HoldsEverySampleOnce) {
  const auto [n, batch] = GetParam();
  BatchSampler sampler(n, batch, 4, false);
  EXPECT_EQ(sampler.steps_per_epoch(), (n + batch - 1) / batch);
  std::vector<int64_t> all = epoch_of(sampler, 0), expected(static_cast<size_t>(n));
  std::sort(all.begin(), all.end());
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(all, expected);
}

TEST_P(Epoch, DropLastDropsTheShortBatchOnly) {
  const auto [n, batch] = GetParam();
  BatchSampler keeping(n, batch, 4, false), dropping(n, batch, 4, true);
  EXPECT_EQ(dropping.steps_per_epoch(), n / batch);
  std::vector<int64_t> kept = epoch_of(keeping, 1);
  kept.resize(static_cast<size_t>(n / batch * batch));
  EXPECT_EQ(epoch_of(dropping, 1), kept);
  for (int64_t step = 0; step < n / batch; ++step) EXPECT_EQ(dropping.batch_size(step), batch);
}

TEST(Sampler, EpochsAndSeedsDifferAndRepeat) {
  BatchSampler sampler(1000, 64, 1, false), other(1000, 64, 2, false);
  const auto first = epoch_of(sampler, 0), second = epoch_of(sampler, 1);
  EXPECT_NE(first, second);
  EXPECT_NE(first, epoch_of(other, 0));
  EXPECT_EQ(epoch_of(sampler, 0), first);  // going back is allowed: a resumed run does
}

TEST(Sampler, BatchSizeChangesNoOrder) {
  BatchSampler small(100, 7, 1, false), large(100, 50, 1, false);
  EXPECT_EQ(epoch_of(small, 3), epoch_of(large, 3));
}

TEST(Sampler, GroupingDealsABatchsOwnSamplesAnew) {
  BatchSampler plain(103, 20, 1, false), dealt(103, 20, 1, false, 8), again(103, 20, 1, false, 8),
      other(103, 20, 1, false, 9);
  for (const int64_t epoch : {0, 5}) {
    std::vector<std::vector<int64_t>> places;
    for (BatchSampler* sampler : {&plain, &dealt, &again, &other}) sampler->start_epoch(epoch);
    for (int64_t step = 0; step < plain.steps_per_epoch(); ++step) {
      auto expected = batch_of(plain, step), batch = batch_of(dealt, step);
      EXPECT_EQ(batch, batch_of(again, step));
      if (batch.size() > 3) {
        EXPECT_NE(batch, expected);
        EXPECT_NE(batch, batch_of(other, step));
        std::vector<int64_t> place;
        for (const int64_t sample : batch) {
          place.push_back(std::find(expected.begin(), expected.end(), sample) - expected.begin());
        }
        for (const auto& before : places) EXPECT_NE(place, before) << "one permutation for all";
        places.push_back(place);
      }
      std::sort(expected.begin(), expected.end());
      std::sort(batch.begin(), batch.end());
      EXPECT_EQ(batch, expected);
    }
  }
}

TEST(Sampler, MisuseIsFound) {
  BatchSampler sampler(10, 4, 1, false);
  EXPECT_THROW(sampler.samples(0, {0, 4}), Error) << "before the first epoch";
  sampler.start_epoch(0);
  EXPECT_NO_THROW(sampler.samples(2, {0, 2}));
  EXPECT_THROW(sampler.samples(2, {0, 3}), Error) << "beyond the short last batch";
  EXPECT_THROW(sampler.samples(3, {0, 0}), Error) << "beyond the last step";
  EXPECT_THROW(BatchSampler(10, 0, 1, false), Error);
}

}  // namespace
}  // namespace syncbn
