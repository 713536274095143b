#include "data/dataset.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <set>

#include "support/idx_files.hpp"
#include "support/mpi_main.hpp"

namespace syncbn {
namespace {

constexpr uint32_t kTrain = 37, kTest = 11, kRows = 3, kColumns = 4, kClasses = 10;
constexpr const char* kTrainImages = "train-images-idx3-ubyte";
constexpr const char* kTrainLabels = "train-labels-idx1-ubyte";
constexpr const char* kTestImages = "t10k-images-idx3-ubyte";
constexpr const char* kTestLabels = "t10k-labels-idx1-ubyte";

uint8_t pixel_of(uint32_t sample, uint32_t pixel) {
  return static_cast<uint8_t>(sample * 7 + pixel * 3);
}

Bytes images_file(uint32_t n) {
  Bytes pixels;
  for (uint32_t i = 0; i < n; ++i) {
    for (uint32_t p = 0; p < kRows * kColumns; ++p) pixels.push_back(pixel_of(i, p));
  }
  return idx_file({n, kRows, kColumns}, pixels);
}

Bytes labels_file(uint32_t n) {
  Bytes labels;
  for (uint32_t i = 0; i < n; ++i) labels.push_back(static_cast<uint8_t>(i % kClasses));
  return idx_file({n}, labels);
}

/// A small data set in a folder that rank 0 makes; test images compressed, the rest plain.
class DatasetTest : public testing::Test {
 protected:
  void SetUp() override {
    if (runtime_.rank() == 0) folder_.emplace();
    options_.data.dir =
        runtime_.world()->gather_text(folder_ ? folder_->path().string() : "").front();
    options_.run.seed = 5;
    write(kTrainImages, images_file(kTrain));
    write(kTrainLabels, labels_file(kTrain));
    write(std::string(kTestImages) + ".gz", gzip(images_file(kTest)));
    write(kTestLabels, labels_file(kTest));
  }
  void TearDown() override { runtime_.world()->barrier(); }  // then the folder goes

  /// Collective.
  void write(const std::string& name, const Bytes& bytes) {
    if (folder_) folder_->write(name, bytes);
    runtime_.world()->barrier();
  }
  void remove(const std::string& name) {
    if (folder_) std::filesystem::remove(folder_->path() / name);
    runtime_.world()->barrier();
  }

  Dataset load() { return load_dataset(runtime_, options_); }

  /// Every rank must refuse with `code` and a message that holds all of `parts`.
  void expect_refused(ExitCode code, const std::vector<std::string>& parts) {
    try {
      load();
      ADD_FAILURE() << "no error";
    } catch (const UsageError& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      for (const std::string& part : parts) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
            << "'" << part << "' is not in: " << error.what();
      }
    }
  }

  /// Every rank must have made the same text.
  void expect_same_everywhere(const std::string& text) {
    const auto texts = runtime_.world()->gather_text(text);
    EXPECT_EQ(std::set<std::string>(texts.begin(), texts.end()).size(), 1u);
  }

  Runtime& runtime_ = test_runtime();
  std::optional<TempFolder> folder_;  // on rank 0
  Options options_;
};

std::string text_of(const at::Tensor& t) {
  return {static_cast<const char*>(t.const_data_ptr()), t.nbytes()};
}

std::string text_of(const std::vector<int64_t>& rows) {
  return {reinterpret_cast<const char*>(rows.data()), rows.size() * sizeof(int64_t)};
}

TEST_F(DatasetTest, HoldsWhatTheFilesHold) {
  const Dataset data = load();
  EXPECT_EQ(data.name, "mnist");
  ASSERT_EQ(data.train.size(), kTrain);
  ASSERT_EQ(data.validation.size(), kTest);
  for (const Split* split : {&data.train, &data.validation}) {
    EXPECT_EQ(split->pixels(), kRows * kColumns);
    EXPECT_EQ(split->images.scalar_type(), at::kByte);
    EXPECT_EQ(split->labels.scalar_type(), at::kLong);
    for (uint32_t i = 0; i < split->size(); ++i) {
      EXPECT_EQ(split->rows[i], i);
      EXPECT_EQ(split->labels.const_data_ptr<int64_t>()[i], i % kClasses);
      for (uint32_t p = 0; p < kRows * kColumns; ++p) {
        EXPECT_EQ(split->images.const_data_ptr<uint8_t>()[i * kRows * kColumns + p],
                  pixel_of(i, p));
      }
    }
  }
}

TEST_F(DatasetTest, TheNodeHoldsOneCopy) {
  const Dataset data = load();
  runtime_.world()->barrier();
  if (runtime_.rank() == 0) {
    data.train.images.data_ptr<uint8_t>()[5] = 201;
    data.validation.labels.data_ptr<int64_t>()[2] = 77;
  }
  runtime_.node_barrier();
  EXPECT_EQ(data.train.images.const_data_ptr<uint8_t>()[5], 201);
  EXPECT_EQ(data.validation.labels.const_data_ptr<int64_t>()[2], 77);
}

TEST_F(DatasetTest, SaysWhenTheDataIsNotThePublishedOne) {
  const Dataset data = load();
  EXPECT_EQ(data.digests.size(), 4u);
  for (const auto& [file, digest] : data.digests) EXPECT_EQ(digest.size(), 64u) << file;
  EXPECT_NE(data.note.find("Not the published mnist"), std::string::npos) << data.note;
  EXPECT_EQ(std::count(data.note.begin(), data.note.end(), '\n'), 0);
  expect_same_everywhere(data.note + data.digests.at(kTestImages));
}

TEST_F(DatasetTest, LimitTakesTheFirstTrainingSamples) {
  options_.data.limit = 10;
  const Dataset data = load();
  EXPECT_EQ(data.train.rows, (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
  EXPECT_EQ(data.validation.size(), kTest);
  options_.data.limit = kTrain;
  EXPECT_EQ(load().train.size(), kTrain);
}

TEST_F(DatasetTest, ALimitBeyondTheSetIsRefused) {
  options_.data.limit = kTrain + 1;
  expect_refused(ExitCode::kUsage, {"data.limit", "38", "37"});
  options_.from_file["data.limit"] = "small.ini: line 2";
  expect_refused(ExitCode::kConfig, {"data.limit", "38", "37"});
}

TEST_F(DatasetTest, AFractionSplitsTheLimitedTrainingSet) {
  options_.data.limit = 30;
  options_.data.validation = "0.25";
  const Dataset data = load();
  EXPECT_EQ(data.validation.size(), 8);  // round(7.5)
  EXPECT_EQ(data.train.size(), 22);
  EXPECT_EQ(data.validation.images.const_data_ptr(), data.train.images.const_data_ptr());
  std::vector<int64_t> all = data.train.rows;
  all.insert(all.end(), data.validation.rows.begin(), data.validation.rows.end());
  std::sort(all.begin(), all.end());
  for (int64_t i = 0; i < 30; ++i) EXPECT_EQ(all[static_cast<size_t>(i)], i);
  expect_same_everywhere(text_of(data.train.rows) + "|" + text_of(data.validation.rows));
}

TEST_F(DatasetTest, TheTestImagesAreAlwaysThere) {
  const Dataset whole = load();
  EXPECT_EQ(whole.test.size(), kTest);
  EXPECT_EQ(whole.validation.rows, whole.test.rows);
  EXPECT_EQ(whole.validation.images.const_data_ptr(), whole.test.images.const_data_ptr());
  options_.data.validation = "0.25";
  const Dataset split = load();
  EXPECT_NE(split.validation.images.const_data_ptr(), split.test.images.const_data_ptr());
  EXPECT_EQ(split.test.rows, whole.test.rows);
  EXPECT_TRUE(at::equal(split.test.images, whole.test.images));
  EXPECT_TRUE(at::equal(split.test.labels, whole.test.labels));
}

TEST_F(DatasetTest, TheSeedChoosesTheFraction) {
  options_.data.validation = "0.5";
  const auto first = load().validation.rows, again = load().validation.rows;
  EXPECT_EQ(first, again);
  options_.run.seed = 6;
  EXPECT_NE(load().validation.rows, first);
  options_.seed.split = 5;
  EXPECT_EQ(load().validation.rows, first);
}

TEST_F(DatasetTest, AnEmptySplitIsRefused) {
  for (const char* fraction : {"0.01", "0.99"}) {
    options_.data.validation = fraction;
    expect_refused(ExitCode::kUsage, {"data.validation", fraction, "37 samples"});
  }
  options_.from_file["data.validation"] = "small.ini: line 3";
  expect_refused(ExitCode::kConfig, {"data.validation"});
}

TEST_F(DatasetTest, MissingFilesAndFolders) {
  remove(kTestLabels);
  expect_refused(ExitCode::kInputMissing,
                 {std::string("lacks '") + kTestLabels +
                      "'; it holds t10k-images-idx3-ubyte.gz, "
                      "train-images-idx3-ubyte, train-labels-idx1-ubyte. ",
                  options_.data.dir, "launch/fetch_mnist.sh", "SYNCBN_MNIST_DIR"});
  options_.data.name = "fashion-mnist";
  expect_refused(ExitCode::kInputMissing, {kTestLabels, "dataset-fashion-mnist"});
  options_.data.dir += "/nowhere";
  expect_refused(ExitCode::kInputMissing, {kTrainImages, "/nowhere"});
}

TEST_F(DatasetTest, AFolderOrDamageInPlaceOfAFile) {
  write(kTrainLabels, {0, 0, 8, 1, 0, 0, 0});
  expect_refused(ExitCode::kInputDamaged, {kTrainLabels, "header of 8 bytes, found 7"});
  remove(kTrainLabels);
  if (folder_) std::filesystem::create_directory(folder_->path() / kTrainLabels);
  runtime_.world()->barrier();
  expect_refused(ExitCode::kInputMissing,
                 {std::string("lacks '") + kTrainLabels, std::string(kTrainLabels) + "/"});
  write(std::string(kTrainLabels) + ".gz", gzip(labels_file(kTrain)));
  EXPECT_EQ(load().train.size(), kTrain);
}

TEST_F(DatasetTest, TheNumberOfClassesFollowsTheLabels) {
  const auto write_labels = [&](const char* name, uint32_t n, int first, int classes) {
    Bytes labels;
    for (uint32_t i = 0; i < n; ++i) {
      labels.push_back(static_cast<uint8_t>(first + static_cast<int>(i) % classes));
    }
    write(name, idx_file({n}, labels));
  };
  options_.data.name = "idx";
  write_labels(kTrainLabels, kTrain, 1, 26);
  write_labels(kTestLabels, kTest, 1, 11);
  Dataset data = load();
  EXPECT_EQ(data.classes, 27);
  EXPECT_NE(data.note.find("data.label_offset = 1"), std::string::npos) << data.note;
  options_.data.label_offset = 1;
  data = load();
  EXPECT_EQ(data.classes, 26);
  EXPECT_EQ(data.note, "");
  EXPECT_EQ(data.digests.size(), 4u);
  for (uint32_t i = 0; i < kTrain; ++i) {
    EXPECT_EQ(data.train.labels.const_data_ptr<int64_t>()[i], i % 26);
  }
  options_.data.classes = 30;
  EXPECT_EQ(load().classes, 30);
  options_.data.classes = 0;
  write_labels(kTestLabels, kTest, 24, 11);  // the test labels count as well
  EXPECT_EQ(load().classes, 34);
}

TEST_F(DatasetTest, StandardIsOfWhatIsTrainedOn) {
  EXPECT_EQ(load().standard.shift, 0.1307);
  options_.data.name = "idx";
  options_.data.limit = 30;
  options_.data.validation = "0.25";
  const Dataset data = load();
  double sum = 0, squares = 0;
  const auto n = static_cast<double>(data.train.size() * kRows * kColumns);
  for (const auto row : data.train.rows) {
    for (uint32_t p = 0; p < kRows * kColumns; ++p) {
      sum += pixel_of(static_cast<uint32_t>(row), p) / 255.0;
    }
  }
  for (const auto row : data.train.rows) {
    for (uint32_t p = 0; p < kRows * kColumns; ++p) {
      squares += std::pow(pixel_of(static_cast<uint32_t>(row), p) / 255.0 - sum / n, 2);
    }
  }
  EXPECT_NEAR(data.standard.shift, sum / n, 1e-14);
  EXPECT_NEAR(data.standard.divisor, std::sqrt(squares / n), 1e-14);
  expect_same_everywhere(concat(std::hexfloat, data.standard.shift, data.standard.divisor));
}

TEST_F(DatasetTest, TellsTheFolderThatNamesTheFiles) {
  const std::string dir = options_.data.dir;
  EXPECT_EQ(load().dir, dir);
  options_.data.dir = dir + "/nothing/..";
  if (folder_) std::filesystem::create_directory(folder_->path() / "nothing");
  runtime_.world()->barrier();
  EXPECT_EQ(load().dir, dir);
}

TEST_F(DatasetTest, ALabelOverNine) {
  Bytes labels = labels_file(kTrain);
  labels[8 + 23] = 10;
  labels[8 + 30] = 255;
  write(kTrainLabels, labels);
  expect_refused(ExitCode::kInputDamaged, {kTrainLabels, "label 23 is 10", "expected 0 to 9",
                                           "--data.name idx", "--data.label_offset"});
}

TEST_F(DatasetTest, CountsThatDiffer) {
  write(kTestLabels, labels_file(kTest + 1));
  expect_refused(ExitCode::kInputDamaged, {kTestImages, "11 images", kTestLabels, "12 labels"});
}

TEST_F(DatasetTest, NoImages) {
  write(kTrainImages, idx_file({0, kRows, kColumns}, {}));
  write(kTrainLabels, labels_file(0));
  expect_refused(ExitCode::kInputDamaged, {kTrainImages, "no images"});
  write(kTrainImages, idx_file({kTrain, 0, kColumns}, {}));
  expect_refused(ExitCode::kInputDamaged, {kTrainImages, "no images", "37 x 0 x 4"});
}

TEST_F(DatasetTest, FilesInEachOthersPlace) {
  write(kTrainImages, labels_file(kTrain));
  expect_refused(ExitCode::kInputDamaged, {kTrainImages, "expected 3 dimensions", "found 1"});
  write(kTrainImages, images_file(kTrain));
  write(kTrainLabels, images_file(kTrain));
  expect_refused(ExitCode::kInputDamaged, {kTrainLabels, "expected 1 dimension", "found 3"});
}

TEST_F(DatasetTest, TestImagesOfAnotherSize) {
  write(kTestImages, idx_file({kTest, kColumns, kRows}, Bytes(kTest * kRows * kColumns)));
  expect_refused(ExitCode::kInputDamaged, {kTestImages, "4 x 3", "3 x 4"});
}

TEST_F(DatasetTest, SyntheticIsTheSameEverywhereAndOfTheSeed) {
  options_.data = {};
  options_.data.name = "synthetic";
  const Dataset data = load(), again = load();
  EXPECT_EQ(data.train.images.sizes(), (at::IntArrayRef{2000, 784}));
  EXPECT_EQ(data.validation.images.sizes(), (at::IntArrayRef{500, 784}));
  EXPECT_TRUE(data.digests.empty());
  EXPECT_TRUE(data.note.empty());
  EXPECT_TRUE(at::equal(data.train.images, again.train.images));
  EXPECT_FALSE(at::equal(data.train.images.narrow(0, 0, 500), data.validation.images));
  expect_same_everywhere(text_of(data.validation.images) + text_of(data.validation.labels));
  for (int64_t label = 0; label < kClasses; ++label) {
    EXPECT_EQ(data.train.labels.eq(label).sum().item<int64_t>(), 200);
  }
  EXPECT_EQ(data.classes, kClasses);
  EXPECT_EQ(data.dir, "");
  options_.run.seed = 6;
  EXPECT_FALSE(at::equal(load().train.images, data.train.images));
  options_.run.seed = 5;
  options_.data.classes = 25;
  const Dataset more = load();
  EXPECT_EQ(more.classes, 25);
  EXPECT_EQ(more.train.labels.max().item<int64_t>(), 24);
  EXPECT_TRUE(at::equal(more.train.images.narrow(0, 0, 10), data.train.images.narrow(0, 0, 10)));
}

// Nearest class mean of the training samples: learnable, and more than one pixel decides.
TEST_F(DatasetTest, SyntheticCanBeLearnt) {
  options_.data = {};
  options_.data.name = "synthetic";
  const Dataset data = load();
  const at::Tensor train = data.train.images.to(at::kFloat);
  std::vector<at::Tensor> means;
  for (int64_t label = 0; label < kClasses; ++label) {
    means.push_back(train.index({data.train.labels.eq(label)}).mean(0));
  }
  const at::Tensor found =
      at::cdist(data.validation.images.to(at::kFloat), at::stack(means)).argmin(1);
  EXPECT_GE(found.eq(data.validation.labels).sum().item<int64_t>(), 475);  // of 500
}

}  // namespace
}  // namespace syncbn
