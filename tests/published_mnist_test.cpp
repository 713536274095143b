// The real MNIST: recognised by its digests, and scaled by its own mean and deviation.
#include <gtest/gtest.h>

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

  const PixelScale computed = computed_standard(data.train.images.const_data_ptr<uint8_t>(),
                                                data.train.pixels(), data.train.rows);
  EXPECT_EQ(data.standard.shift, 0.1307);
  EXPECT_EQ(data.standard.divisor, 0.3081);
  EXPECT_NEAR(computed.shift, 0.1307, 0.5e-4);
  EXPECT_NEAR(computed.divisor, 0.3081, 0.5e-4);
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
