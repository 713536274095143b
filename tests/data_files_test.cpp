// The names and folders in which the four files are found, and what is read from them.
#include "data/data_files.hpp"

#include <gtest/gtest.h>

#include <functional>

#include "data/samples.hpp"
#include "support/idx_files.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

constexpr uint32_t kTrain = 6, kTest = 4;

Bytes file_of(const std::string& name) {
  const uint32_t n = name.find("train") != std::string::npos ? kTrain : kTest;
  if (name.find("images") != std::string::npos) return idx_file({n, 2, 3}, Bytes(n * 6, 9));
  Bytes labels(n);
  for (uint32_t i = 0; i < n; ++i) labels[i] = static_cast<uint8_t>(i % 3);
  return idx_file({n}, labels);
}

class DataFilesTest : public testing::Test {
 protected:
  DataFilesTest() { dir(""); }

  /// data.dir is this below the folder.
  void dir(const std::string& name) { options_.data.dir = (folder_.path() / name).string(); }
  void make(const std::string& name) {
    fs::create_directories((folder_.path() / name).parent_path());
    const Bytes bytes = file_of(fs::path(name).filename());
    const bool zips = name.size() > 3 && name.compare(name.size() - 3, 3, ".gz") == 0;
    folder_.write(name, zips ? gzip(bytes) : bytes);
  }
  void make(const Names& names) {
    for (const std::string& name : names) make(name);
  }
  /// The files found, below the folder.
  Names found() const {
    Names names;
    for (const std::string& path : find_data_files(options_).paths) {
      names.push_back(fs::path(path).lexically_relative(folder_.path()).string());
    }
    return names;
  }
  void expect_found(const Names& names) {
    EXPECT_EQ(found(), names);
    const AllSamples all = read_samples(options_);  // and what is found can be read
    EXPECT_EQ(all.train.size(), kTrain);
    EXPECT_EQ(all.test.size(), kTest);
    Options again = options_;
    again.data.dir = all.dir;  // what is kept names the same files
    EXPECT_EQ(find_data_files(again).paths, find_data_files(options_).paths);
  }
  void expect_refused(ExitCode code, const std::vector<std::string>& parts,
                      const std::vector<std::string>& absent = {}) const {
    try {
      read_samples(options_);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_EQ(error.code(), code) << message;
      for (const std::string& part : parts) {
        EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' not in " << message;
      }
      for (const std::string& part : absent) {
        EXPECT_EQ(message.find(part), std::string::npos) << "'" << part << "' in " << message;
      }
    }
  }
  std::string at(const std::string& name) const { return (folder_.path() / name).string(); }

  TempFolder folder_;
  Options options_;
};

Names with(const std::string& before, const std::string& after = "") {
  Names names(kDataFiles.begin(), kDataFiles.end());
  for (std::string& name : names) name = before + name + after;
  return names;
}

Names dotted(Names names) {
  for (std::string& name : names) name.replace(name.find("-idx"), 1, ".");
  return names;
}

/// The test files as EMNIST and QMNIST call them.
Names tests(Names names) {
  for (std::string& name : names) {
    const size_t at = name.find("t10k");
    if (at != std::string::npos) name.replace(at, 4, "test");
  }
  return names;
}

TEST_F(DataFilesTest, MnistsNamesPlainAndZipped) {
  make(with("", ".gz"));
  expect_found(with("", ".gz"));
  make("t10k-labels-idx1-ubyte");  // plain comes before .gz
  Names both = with("", ".gz");
  both[3] = "t10k-labels-idx1-ubyte";
  expect_found(both);
}

TEST_F(DataFilesTest, DotsAsUnpackersMakeThem) {
  make(dotted(with("", ".gz")));
  expect_found(dotted(with("", ".gz")));
  make(dotted(with("")));
  expect_found(dotted(with("")));
  make(with("", ".gz"));  // MNIST's own names come first
  expect_found(with("", ".gz"));
}

TEST_F(DataFilesTest, EmnistsAndQmnistsNames) {
  options_.data.name = "idx";
  const Names letters = tests(with("emnist-letters-"));
  make(letters);
  expect_found(letters);
  EXPECT_EQ(find_data_files(options_).dir, at("emnist-letters"));
  const Names qmnist = {"q/qmnist-train-images-idx3-ubyte.gz", "q/qmnist-train-labels-idx2-int",
                        "q/qmnist-test-images-idx3-ubyte.gz", "q/qmnist-test-labels-idx2-int"};
  make(qmnist);
  make("q/qmnist-train-labels.tsv.gz");
  dir("q");
  expect_found(qmnist);
}

TEST_F(DataFilesTest, OneOfSeveralSetsIsNamedByItsBeginning) {
  options_.data.name = "idx";
  const Names letters = tests(with("gzip/emnist-letters-", ".gz")),
              balanced = tests(with("gzip/emnist-balanced-", ".gz"));
  make(letters);
  make(balanced);
  make("gzip/emnist-mnist-train-images-idx3-ubyte.gz");  // no whole set
  for (const char* name : {"gzip", ""}) {
    dir(name);
    expect_refused(ExitCode::kInputMissing,
                   {"several data sets", "--data.dir: '" + at("gzip/emnist-balanced") + "', '" +
                                             at("gzip/emnist-letters") + "'"});
  }
  dir("gzip/emnist-letters");
  expect_found(letters);
  dir("emnist-balanced");  // in a folder below
  expect_found(balanced);
  dir("gzip/emnist-leters");
  expect_refused(ExitCode::kInputMissing,
                 {"emnist-leters", "is not there", "emnist-balanced", at("gzip/emnist-letters")});
  dir("gzip/emnist-mnist");
  expect_refused(ExitCode::kInputMissing,
                 {"lacks 'emnist-mnist-train-labels-idx1-ubyte', "
                  "'emnist-mnist-test-images-idx3-ubyte', 'emnist-mnist-test-labels-idx1-ubyte'"});
}

TEST_F(DataFilesTest, AFolderOfASetsNameMustBeRenamedToNameTheSet) {
  options_.data.name = "idx";
  make(with("gzip/emnist-letters-"));
  make(with("gzip/emnist-balanced-"));
  for (const char* set : {"emnist-letters", "emnist-balanced"}) {
    fs::create_directory(folder_.path() / "gzip" / set);
  }
  const std::string first = "(once the folder of that name has another)";
  dir("gzip");
  expect_refused(ExitCode::kInputMissing,
                 {"several data sets", "'" + at("gzip/emnist-balanced") + "' " + first + ", '" +
                                           at("gzip/emnist-letters") + "' " + first});
  fs::rename(folder_.path() / "gzip/emnist-letters", folder_.path() / "gzip/other");
  dir("gzip/emnist-letters");
  expect_found(with("gzip/emnist-letters-"));
}

TEST_F(DataFilesTest, AFileIsNoFolder) {
  make(with(""));
  dir("train-images-idx3-ubyte");
  expect_refused(ExitCode::kInputMissing,
                 {"is a file, expected a folder; '" + folder_.path().string() + "' holds "},
                 {"is not there"});
}

TEST_F(DataFilesTest, MnistsOwnNamesComeBeforeOthersBesideThem) {
  make(with(""));
  make(tests(with("emnist-digits-")));
  expect_found(with(""));
}

TEST_F(DataFilesTest, FoldersOfTheFilesNames) {
  Names names;
  for (const std::string& name : with("")) names.push_back(dotted({name})[0] + "/" + name);
  make(names);  // Kaggle
  expect_found(names);
  make(with("", ".gz"));
  expect_found(with("", ".gz"));
  dir("same");
  names.clear();
  for (const std::string& name : with("")) names.push_back("same/" + name + "/" + name);
  make(names);
  expect_found(names);
}

TEST_F(DataFilesTest, AFolderOfAFilesNameIsNoFile) {
  for (const std::string& name : with("")) fs::create_directory(folder_.path() / name);
  make("train-images-idx3-ubyte/readme-idx1-ubyte");
  expect_refused(ExitCode::kInputMissing,
                 {"lacks 'train-images-idx3-ubyte'", "it holds t10k-images-idx3-ubyte/, "});
  make(with("", ".gz"));
  expect_found(with("", ".gz"));
}

TEST_F(DataFilesTest, TorchvisionsFolders) {
  const Names mnist = with("MNIST/raw/"), fashion = with("FashionMNIST/raw/"),
              kmnist = with("KMNIST/raw/");
  make(mnist);
  make(fashion);
  make(kmnist);
  expect_found(mnist);
  options_.data.name = "fashion-mnist";
  expect_found(fashion);
  options_.data.name = "idx";
  expect_refused(ExitCode::kInputMissing, {"several", at("KMNIST/raw"), at("MNIST/raw")});
  dir("KMNIST");
  expect_found(kmnist);
  dir("KMNIST/raw");
  expect_found(kmnist);
  make(with(""));
  dir("");
  expect_found(with(""));  // the folder itself comes first
}

TEST_F(DataFilesTest, TestAndT10kAreNotMixed) {
  make(with(""));
  make("test-labels-idx1-ubyte");
  expect_found(with(""));
  fs::remove(folder_.path() / "t10k-labels-idx1-ubyte");
  expect_refused(ExitCode::kInputMissing, {"lacks 't"});
  make("test-images-idx3-ubyte");
  expect_found(tests(with("")));
}

TEST_F(DataFilesTest, OtherNamesAreLeftAlone) {
  make({"._train-images-idx3-ubyte", "mytrain-images-idx3-ubyte", "train-images-idx3-ubyte.gz.part",
        "train-images-idx3-ubyte (1).gz", "train-images-idxx-ubyte", "validation-images-idx3-ubyte",
        "train-images-idx3-float", "-ubyte", "idx3-ubyte"});
  fs::create_symlink("nowhere", folder_.path() / "train-labels-idx1-ubyte");
  expect_refused(ExitCode::kInputMissing,
                 {"lacks 'train-images-idx3-ubyte', 'train-labels-idx1-ubyte', ",
                  "it holds -ubyte, ", " and 2 more", "launch/fetch_mnist.sh"});
}

TEST_F(DataFilesTest, WhatIsNotThere) {
  expect_refused(ExitCode::kInputMissing, {"(data.dir)", "it is empty", "train-labels-idx1-ubyte",
                                           "docs/data.md", "SYNCBN_MNIST_DIR"});
  options_.from_file["data.dir"] = "old.ini: line 5";
  dir("none/none");
  expect_refused(ExitCode::kInputMissing, {at("none/none"), "(old.ini: line 5)", "is not there"});
  options_.data.name = "fashion-mnist";
  expect_refused(ExitCode::kInputMissing, {"dataset-fashion-mnist"}, {"SYNCBN_MNIST_DIR"});
  options_.data.name = "idx";
  expect_refused(ExitCode::kInputMissing, {"Name their folder with --data.dir."}, {"Debian"});
}

// ---- what the files hold ----

class SamplesTest : public DataFilesTest {
 protected:
  SamplesTest() {
    options_.data.name = "idx";
    make(with(""));
  }
  void labels(const std::string& name, const std::vector<uint32_t>& sizes, const Bytes& payload,
              uint8_t type = 8) {
    Bytes bytes = idx_file(sizes, payload);
    bytes[2] = type;
    folder_.write(name, bytes);
  }
  void train_labels(const Bytes& payload) { labels(kDataFiles[1], {kTrain}, payload); }
  void images(const std::vector<uint32_t>& sizes) {
    size_t pixels = 1;
    for (const uint32_t size : sizes) pixels *= size;
    for (const auto& [f, n] : {std::pair(0, kTrain), std::pair(2, kTest)}) {
      std::vector<uint32_t> all{n};
      all.insert(all.end(), sizes.begin(), sizes.end());
      folder_.write(kDataFiles[static_cast<size_t>(f)], idx_file(all, Bytes(n * pixels)));
    }
  }
};

TEST_F(SamplesTest, OfQmnistsLabelsTheFirstColumnIsTheClass) {
  Bytes rows;
  for (uint32_t i = 0; i < kTrain; ++i) {
    for (const uint8_t value : {static_cast<uint8_t>(i % 3), uint8_t{77}, uint8_t{255}})
      rows.insert(rows.end(), {0, 0, 0, value});
  }
  const auto expected = read_samples(options_).train.labels;
  labels(kDataFiles[1], {kTrain, 3}, rows, 12);
  for (const char* name : {"mnist", "idx"}) {
    options_.data.name = name;
    EXPECT_EQ(read_samples(options_).train.labels, expected);
  }
  Bytes column(kTrain * 4);
  for (uint32_t i = 0; i < kTrain; ++i) column[i * 4 + 2] = 1;  // 256, of 4 bytes
  labels(kDataFiles[1], {kTrain}, column, 12);
  EXPECT_EQ(read_samples(options_).classes, 257);
  column[3] = 255;
  column[0] = column[1] = column[2] = 255;
  labels(kDataFiles[1], {kTrain}, column, 12);
  expect_refused(ExitCode::kInputDamaged,
                 {kDataFiles[1], "label 0 is -1", "expected 0 to 256", "from -1 to 256",
                  "number the classes from 0"},
                 {"Set data.label_offset"});  // which is at least 0
  labels(kDataFiles[1], {kTrain, 0}, {}, 12);
  expect_refused(ExitCode::kInputDamaged, {"6 images", "0 labels"});
  labels(kDataFiles[1], {kTrain, 2}, Bytes(12));
  expect_refused(ExitCode::kInputDamaged,
                 {kDataFiles[1], "expected 1 dimension", "found 2", "of bytes"});
}

TEST_F(SamplesTest, LabelsOutOfRangeAreNamedWithTheOptionsToSet) {
  train_labels({0, 1, 2, 5, 1, 0});
  EXPECT_EQ(read_samples(options_).classes, 6);
  options_.data.classes = 3;
  expect_refused(ExitCode::kInputDamaged, {kDataFiles[1], "label 3 is 5", "expected 0 to 2",
                                           "3 classes", "data.classes", "data.label_offset"});
  options_.data.classes = 0;
  options_.data.label_offset = 1;
  expect_refused(ExitCode::kInputDamaged,
                 {kDataFiles[1], "label 0 is 0", "expected 1 to 5", "data.label_offset = 1"});
  train_labels({1, 1, 2, 5, 1, 1});
  expect_refused(ExitCode::kInputDamaged, {kDataFiles[3], "label 0 is 0", "expected 1 to 5"});
  train_labels(Bytes(kTrain));
  labels(kDataFiles[3], {kTest}, Bytes(kTest));
  options_.data.label_offset = 0;
  expect_refused(ExitCode::kInputDamaged, {"one class only", "data.classes"});
  options_.data.classes = 4;
  EXPECT_EQ(read_samples(options_).classes, 4);
  options_.data.classes = 0;
  Bytes far(4 * kTrain);
  far[1] = 2;
  labels(kDataFiles[1], {kTrain}, far, 12);
  expect_refused(ExitCode::kInputDamaged,
                 {"label 0 is 131072", "expected 0 to 65535", "number the classes from 0"});
}

TEST_F(SamplesTest, TwoToFourDimensions) {
  const std::vector<std::pair<std::vector<uint32_t>, int64_t>> shapes = {
      {{12}, 0}, {{3, 4}, 4}, {{1, 5}, 5}, {{3, 4, 1}, 4}, {{1, 3, 4}, 4}, {{3, 4, 2}, 0}};
  for (const auto& [sizes, width] : shapes) {
    images(sizes);
    const AllSamples all = read_samples(options_);
    EXPECT_EQ(all.train.width(), width) << testing::PrintToString(sizes);
    EXPECT_EQ(all.train.bytes_per_sample() * kTrain, static_cast<int64_t>(all.train.pixels.size()));
  }
  options_.data.name = "mnist";
  expect_refused(ExitCode::kInputDamaged, {"expected 3 dimensions", "found 4", "data.name = idx"});
  options_.data.name = "idx";
  images({});
  expect_refused(ExitCode::kInputDamaged, {"expected 2 to 4 dimensions", "found 1"});
  Bytes ints = idx_file({kTrain, 2}, Bytes(8 * kTrain));
  ints[2] = 12;
  folder_.write(kDataFiles[0], ints);
  expect_refused(ExitCode::kInputDamaged, {kDataFiles[0], "unsigned bytes", "32-bit integers"});
}

}  // namespace
}  // namespace syncbn
