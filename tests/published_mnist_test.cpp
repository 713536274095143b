// The real MNIST: recognised by its digests, and scaled by its own mean and deviation.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdlib>

#include "data/dataset.hpp"
#include "support/mpi_main.hpp"

namespace syncbn {
namespace {

constexpr const char* kTrainImages = "train-images-idx3-ubyte";

class PublishedMnist : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(std::getenv("SYNCBN_MNIST_DIR"), nullptr)
        << "set SYNCBN_MNIST_DIR to MNIST's folder: launch/fetch_mnist.sh gets it and prints it";
  }
};

TEST_F(PublishedMnist, IsRecognisedAndScaledByItsOwnMoments) {
  const Dataset data = load_dataset(test_runtime(), Options{});
  EXPECT_EQ(data.note, "");
  EXPECT_EQ(data.digests.at(kTrainImages),
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db");
  EXPECT_EQ(data.train.size(), 60000);
  EXPECT_EQ(data.validation.size(), 10000);
  EXPECT_EQ(data.train.labels.const_data_ptr<int64_t>()[0], 5);  // the first digit is a five

  std::array<int64_t, 256> counts{};
  const uint8_t* pixels = data.train.images.const_data_ptr<uint8_t>();
  for (int64_t i = 0; i < data.train.images.numel(); ++i) ++counts[pixels[i]];
  const auto n = static_cast<double>(data.train.images.numel());
  double mean = 0, variance = 0;
  for (int v = 0; v < 256; ++v) mean += v / 255.0 * static_cast<double>(counts[v]) / n;
  for (int v = 0; v < 256; ++v) {
    variance += std::pow(v / 255.0 - mean, 2) * static_cast<double>(counts[v]) / n;
  }
  const PixelScale standard = pixel_scale("standard");
  EXPECT_NEAR(standard.shift, mean, 0.5e-4);
  EXPECT_NEAR(standard.divisor, std::sqrt(variance), 0.5e-4);
}

TEST_F(PublishedMnist, IsRecognisedUnderAnotherName) {
  Options options;
  options.data.name = "fashion-mnist";
  options.data.dir = std::getenv("SYNCBN_MNIST_DIR");
  EXPECT_EQ(load_dataset(test_runtime(), options).note,
            "The files given as fashion-mnist are those of mnist.");
}

}  // namespace
}  // namespace syncbn
