// The samples of a data set as one process holds them, before its node shares them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/options.hpp"
#include "data/data_files.hpp"

namespace syncbn {

/// Images and classes of one purpose.
struct Samples {
  std::vector<int64_t> sizes;   ///< (n, rows, columns), or (n, features), or four
  std::vector<uint8_t> pixels;  ///< their product
  std::vector<int64_t> labels;  ///< (n), each in [0, classes)

  int64_t size() const { return sizes[0]; }
  int64_t bytes_per_sample() const { return static_cast<int64_t>(pixels.size()) / size(); }
  /// Pixels of an image's row; 0 where the sizes tell of no rows and columns.
  int64_t width() const;
};

struct AllSamples {
  Samples train, test;
  int64_t classes = 0;
  int64_t smallest_label = 0;  ///< after data.label_offset
  /// SHA-256 in the order of kDataFiles: of the uncompressed files, or of what was made.
  std::array<std::string, 4> digests;
  std::string dir;  ///< see DataFiles; empty for synthetic
};

/// Reads and checks all four files. A label's class is it less data.label_offset; data.classes says
/// how many there are, or (0) the data set: 10 for mnist and fashion-mnist, up to the largest label
/// for idx. Throws Error: 66 (a file is missing), 65 (damaged, not what the data set takes, a label
/// out of range with its index, image and label counts differ, no images).
AllSamples read_samples(const Options& options);

/// Noisy prototypes of data.classes classes (0: 10), made from the seed.
AllSamples make_samples(uint64_t seed, const DataOptions& options);

}  // namespace syncbn
