// BatchGather on one rank; on CUDA its results must be those of the CPU, bit for bit.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <tuple>

#include "base/error.hpp"
#include "base/random.hpp"
#include "data/dataset.hpp"
#include "support/mpi_main.hpp"

namespace syncbn {
namespace {

constexpr int64_t kStored = 200, kPixels = 28 * 28;

/// Every third stored row, backwards; all byte values occur.
Split make_split() {
  Split split;
  split.images = at::empty({kStored, kPixels}, at::kByte);
  split.labels = at::empty({kStored}, at::kLong);
  const RandomStream random(1, Stream::kSynthetic, 0);
  for (int64_t i = 0; i < split.images.numel(); ++i) {
    split.images.data_ptr<uint8_t>()[i] =
        static_cast<uint8_t>(random.below(256, static_cast<uint64_t>(i)));
  }
  for (int64_t i = 0; i < kStored; ++i) split.labels.data_ptr<int64_t>()[i] = (7 * i) % 10;
  for (int64_t row = kStored - 1; row >= 0; row -= 3) split.rows.push_back(row);
  return split;
}

struct Batch {
  at::Tensor x, labels;
  Batch(int64_t n, at::ScalarType dtype, at::Device device)
      : x(at::full({n, kPixels}, -99, at::device(device).dtype(dtype))),
        labels(at::full({n}, -99, at::device(device).dtype(at::kLong))) {}
};

class Gather : public testing::TestWithParam<std::tuple<at::ScalarType, std::string>> {
 protected:
  at::ScalarType dtype() const { return std::get<0>(GetParam()); }
  PixelScale scale() const { return pixel_scale(std::get<1>(GetParam()), {0.1307, 0.3081}); }

  const Split split_ = make_split();
  const at::Device device_ = test_device();
};
INSTANTIATE_TEST_SUITE_P(, Gather,
                         testing::Combine(testing::Values(at::kFloat, at::kDouble),
                                          testing::Values("unit", "half", "standard", "binary")));

TEST_P(Gather, RowsAreTheScaledSamples) {
  const std::vector<int64_t> samples = {3, 0, 66, 3, 41};
  BatchGather gather(split_, scale(), 8, dtype(), device_);
  Batch batch(5, dtype(), device_);
  gather(samples.data(), 5, batch.x, batch.labels);
  const at::Tensor x = batch.x.cpu().to(at::kDouble), labels = batch.labels.cpu();
  const double tolerance = dtype() == at::kFloat ? 2e-7 : 1e-15;  // half a unit in the last place
  for (int64_t i = 0; i < 5; ++i) {
    const int64_t row = kStored - 1 - 3 * samples[static_cast<size_t>(i)];
    EXPECT_EQ(labels.data_ptr<int64_t>()[i], (7 * row) % 10);
    for (int64_t p = 0; p < kPixels; ++p) {
      const double byte = split_.images.data_ptr<uint8_t>()[row * kPixels + p];
      double expected = (byte / 255 - scale().shift) / scale().divisor;
      if (scale().binary) expected = byte / 255 > 0.5 ? 1 : 0;
      ASSERT_NEAR(x.data_ptr<double>()[i * kPixels + p], expected, tolerance);
    }
  }
}

// Many batches in a row without waiting: no staging buffer may be refilled while it is being
// copied.
TEST_P(Gather, ConsecutiveBatchesDoNotMix) {
  constexpr int64_t kBatches = 50, kSize = 60;
  BatchGather gather(split_, scale(), kSize, dtype(), device_);
  BatchGather reference(split_, scale(), kSize, dtype(), at::kCPU);
  const RandomStream random(2, Stream::kSynthetic, 0);
  std::vector<std::vector<int64_t>> samples(kBatches, std::vector<int64_t>(kSize));
  std::vector<Batch> batches;
  for (int64_t b = 0; b < kBatches; ++b) {
    auto& mine = samples[static_cast<size_t>(b)];
    for (int64_t i = 0; i < kSize; ++i) {
      mine[static_cast<size_t>(i)] = static_cast<int64_t>(
          random.below(static_cast<uint64_t>(split_.size()), static_cast<uint64_t>(b * kSize + i)));
    }
    batches.emplace_back(kSize, dtype(), device_);
    gather(mine.data(), kSize, batches.back().x, batches.back().labels);
  }
  for (size_t b = 0; b < batches.size(); ++b) {
    Batch expected(kSize, dtype(), at::kCPU);
    reference(samples[b].data(), kSize, expected.x, expected.labels);
    EXPECT_TRUE(at::equal(batches[b].x.cpu(), expected.x)) << "batch " << b;
    EXPECT_TRUE(at::equal(batches[b].labels.cpu(), expected.labels)) << "batch " << b;
  }
}

TEST_P(Gather, AugmentsBySamplesPlaces) {
  const std::vector<int64_t> samples = {3, 0, 66, 3, 41};
  constexpr int64_t kPlace = 40;
  Augmentation augmentation("crop-flip", 1, 28, 28);
  augmentation.start_epoch(0);
  Split by_hand = split_;  // row i is sample i as it is to be changed
  by_hand.images = split_.images.clone();
  by_hand.labels = split_.labels.clone();
  for (int64_t i = 0; i < 5; ++i) {
    const int64_t row = split_.rows[static_cast<size_t>(samples[static_cast<size_t>(i)])];
    augmentation(kPlace + i, split_.images.data_ptr<uint8_t>() + row * kPixels,
                 by_hand.images.data_ptr<uint8_t>() + i * kPixels);
    by_hand.labels[i] = split_.labels[row];
  }
  by_hand.rows = {0, 1, 2, 3, 4};
  const std::vector<int64_t> all = {0, 1, 2, 3, 4};
  Batch found(5, dtype(), device_), expected(5, dtype(), at::kCPU);
  BatchGather(split_, scale(), 8, dtype(), device_)(samples.data(), 5, found.x, found.labels,
                                                    &augmentation, kPlace);
  BatchGather(by_hand, scale(), 8, dtype(), at::kCPU)(all.data(), 5, expected.x, expected.labels);
  EXPECT_TRUE(at::equal(found.x.cpu(), expected.x));
  EXPECT_TRUE(at::equal(found.labels.cpu(), expected.labels));
}

TEST_P(Gather, AnEmptyShareIsAllowed) {
  BatchGather gather(split_, scale(), 8, dtype(), device_);
  Batch batch(0, dtype(), device_);
  EXPECT_NO_THROW(gather(nullptr, 0, batch.x, batch.labels));
}

TEST_P(Gather, TensorsThatDoNotFitAreRefused) {
  const std::vector<int64_t> samples(9, 0);
  BatchGather gather(split_, scale(), 8, dtype(), device_);
  Batch batch(9, dtype(), device_), smaller(4, dtype(), device_);
  EXPECT_THROW(gather(samples.data(), 9, batch.x, batch.labels), Error) << "beyond the capacity";
  EXPECT_THROW(gather(samples.data(), 5, smaller.x, smaller.labels), Error) << "5 rows into 4";
  at::Tensor wrong = smaller.x.to(dtype() == at::kFloat ? at::kDouble : at::kFloat);
  EXPECT_THROW(gather(samples.data(), 4, wrong, smaller.labels), Error) << "another dtype";
}

TEST(PixelScale, KnowsItsNames) {
  const PixelScale standard{0.25, 0.125};
  EXPECT_EQ(pixel_scale("half", standard).shift, 0.5);
  EXPECT_FALSE(pixel_scale("half", standard).binary);
  EXPECT_TRUE(pixel_scale("binary", standard).binary);
  EXPECT_EQ(pixel_scale("standard", standard).shift, 0.25);
  EXPECT_EQ(pixel_scale("standard", standard).divisor, 0.125);
  EXPECT_THROW(pixel_scale("unitt", standard), Error);
}

TEST(PixelScale, EqualPixelsHaveNoDeviation) {
  const std::vector<uint8_t> pixels(12, 51);
  const PixelScale standard = computed_standard(pixels.data(), 3, {0, 2, 3});
  EXPECT_DOUBLE_EQ(standard.shift, 0.2);
  EXPECT_EQ(standard.divisor, 0);
  EXPECT_NO_THROW(pixel_scale("unit", standard));
  try {
    pixel_scale("standard", standard);
    ADD_FAILURE() << "no error";
  } catch (const UsageError& error) {
    EXPECT_EQ(error.code(), ExitCode::kInputDamaged);
    EXPECT_NE(std::string(error.what()).find("all 51"), std::string::npos) << error.what();
  }
}

// By hand: 0, 51 and 102 are 0, 0.2 and 0.4; their variance is (0.04 + 0 + 0.04) / 3.
TEST(PixelScale, ComputesMeanAndDeviationOfTheRowsGiven) {
  const std::vector<uint8_t> pixels = {255, 255, 255, 0, 51, 102, 102, 51, 0};
  const PixelScale standard = computed_standard(pixels.data(), 3, {1, 2});
  EXPECT_DOUBLE_EQ(standard.shift, 0.2);
  EXPECT_NEAR(standard.divisor, std::sqrt(0.08 / 3), 1e-15);
}

TEST(PixelScale, KnowsWhatWasPublished) {
  EXPECT_EQ(published_standard("mnist")->shift, 0.1307);
  EXPECT_EQ(published_standard("mnist")->divisor, 0.3081);
  EXPECT_EQ(published_standard("fashion-mnist")->shift, 0.2860);
  EXPECT_EQ(published_standard("fashion-mnist")->divisor, 0.3530);
  EXPECT_EQ(published_standard("idx"), nullptr);
}

}  // namespace
}  // namespace syncbn
