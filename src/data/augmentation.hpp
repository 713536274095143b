// Random crops and flips of training images, as Hoffer, Hubara and Soudry ("Train longer,
// generalize better", 2017) train on MNIST: their code, eladhoffer/bigBatch (preprocess.py), pads
// 28×28 images with 0 to 32×32, crops 28×28 at a uniformly drawn place and mirrors with probability
// 1/2. Images of any height and width do.
//
// What is drawn for an image is a function of (seed, epoch, its place in the epoch), never of
// ranks. Not collective.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/random.hpp"

namespace syncbn {

class Augmentation {
 public:
  static constexpr int64_t kPad = 2;  ///< pixels on each side

  /// name: none | crop | crop-flip (a crop, then a mirror image with probability 1/2).
  Augmentation(const std::string& name, uint64_t seed, int64_t height, int64_t width);

  void start_epoch(int64_t epoch);
  bool changes() const { return crops_; }
  /// The image (height, width) of `place` (0-based, of the epoch begun last) as it is trained on;
  /// in and out do not overlap. Thread-safe.
  void operator()(int64_t place, const uint8_t* in, uint8_t* out) const;

 private:
  bool crops_, flips_;
  uint64_t seed_;
  int64_t height_, width_;
  std::optional<RandomStream> draws_;
};

}  // namespace syncbn
