// Data sets in memory: uint8 images and labels, one copy per node in shared memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/options.hpp"
#include "comm/runtime.hpp"
#include "data/augmentation.hpp"
#include "data/pixel_scale.hpp"

namespace syncbn {

/// Samples of one purpose: rows of shared storage. Sample i is storage row rows[i].
struct Split {
  at::Tensor images;  ///< (stored, pixels) uint8, CPU, read-only, shared by the node's ranks
  at::Tensor labels;  ///< (stored) int64, CPU, each in [0, classes)
  int64_t width = 0;  ///< pixels of an image's row; 0: features without rows and columns
  std::vector<int64_t> rows;  ///< this split's storage rows
  int64_t size() const { return static_cast<int64_t>(rows.size()); }
  int64_t pixels() const { return images.size(1); }
  int64_t height() const { return width > 0 ? pixels() / width : 0; }
};

struct Dataset {
  std::string name;
  Split train, validation;
  Split test;  ///< the test images, whatever is validated on
  int64_t classes = 10;
  /// The mean and deviation of the inputs: published with the data set, else of data.train.
  PixelScale standard;
  std::string dir;  ///< the data.dir that names these files, absolute, on rank 0; empty: synthetic
  /// MNIST's name of each file → SHA-256 of its uncompressed bytes, for the run's metadata; empty
  /// for synthetic.
  std::map<std::string, std::string> digests;
  /// One line for the log when something about the data needs saying (an unknown digest,
  /// outputs without a class), else empty.
  std::string note;
};

/// Collective. Loads `options.data.name` (options as `validate` leaves them); local rank 0 of each
/// node reads the files, the others map them.
///   files        those that find_data_files finds; all four are read and checked, whichever are
///                used
///   classes      data.classes, else 10, or for idx up to the largest label (see read_samples)
///   synthetic    noisy class prototypes made from run.seed, 2,000 training and 500 test samples of
///                28×28, learnable and the same everywhere
///   data.limit   the first n training samples only (0: all), before any split
///   validation   "test": the test set, in the same memory; a fraction f in (0, 1): round(f·n)
///                training samples chosen by a permutation of (seed.split, Stream::kSplit), the
///                rest for training
/// Throws UsageError on all ranks: 66 (a file is missing: says which, where, and how to get it), 65
/// (damaged, a label out of range with its index, image and label counts differ, no images), 76
/// (nodes see different content), 64 or 78 (data.limit exceeds the set; data.validation leaves a
/// split empty).
Dataset load_dataset(Runtime& runtime, const Options& options);

/// Copies batches out of a split, scaling as it goes: one pass, no tensor allocated after
/// construction.
class BatchGather {
 public:
  /// At most `capacity` rows a call. dtype: float32 or float64. On CUDA rows travel as uint8
  /// through pinned memory and are scaled on the device.
  BatchGather(const Split& split, PixelScale scale, int64_t capacity, at::ScalarType dtype,
              at::Device device);
  ~BatchGather();
  /// samples[0 … n) of the split → x (n, pixels) on the device, labels (n) int64 on the device.
  /// n may be 0. x and labels are made by the caller with exactly n rows. With an augmentation,
  /// sample i is changed as the one of place `place` + i of its epoch.
  void operator()(const int64_t* samples, int64_t n, at::Tensor& x, at::Tensor& labels,
                  const Augmentation* augmentation = nullptr, int64_t place = 0);

 private:
  struct Batch;    // the samples of one call
  struct Staging;  // pinned and device buffers; CUDA only
  void gather_on_cuda(const Batch& batch, at::Tensor& x, at::Tensor& labels);

  const Split& split_;
  int64_t capacity_;
  at::Tensor table_;  // (256) dtype, CPU: the scaled value of each byte
  at::Device device_;
  std::unique_ptr<Staging> staging_;  // null on the CPU
};

}  // namespace syncbn
