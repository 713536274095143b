// The four files of an IDX data set, under the names and in the folders that people have.
//
// docs/data.md lists what is read. Not collective; looks at names only and opens no file.
#pragma once

#include <array>
#include <string>

#include "base/options.hpp"

namespace syncbn {

/// The names of MNIST's files. The order everywhere: training images, training labels, test images,
/// test labels.
constexpr std::array<const char*, 4> kDataFiles = {
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte"};

struct DataFiles {
  std::array<std::string, 4> paths;  ///< in the order of kDataFiles
  std::string dir;                   ///< absolute: the data.dir that names these files alone
};

/// Looks in data.dir, else $SYNCBN_MNIST_DIR (mnist only), else data/<name> and, for fashion-mnist,
/// where Debian's package puts it. Throws Error(kInputMissing) if there is no whole set of four, or
/// if there are several and none is named: says what is missing, what is there, and what to do.
DataFiles find_data_files(const Options& options);

}  // namespace syncbn
