// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011, section 3.3 and table 2's constants).
//
// A number is a pure function of (seed, stream, index, position). Nothing advances, nothing is
// stored, so the same numbers come out on any rank, in any order and after any restart. Not thread-
// or platform-dependent; std::shuffle and std::*_distribution are not used because their results
// are implementation-defined.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace syncbn {

/// What random numbers are for. Streams never share numbers; the values are part of the results.
enum class Stream : uint32_t {
  kInit = 1,
  kOrder = 2,
  kDropout = 3,
  kSplit = 4,
  kSynthetic = 5,
  kGrouping = 6,
  kProbe = 7,
  kAugmentation = 8
};

/// Four 32-bit numbers from a 128-bit counter and a 64-bit key.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// The random numbers of one (seed, stream, index); `index` tells apart what one stream makes
/// (a layer, an epoch, a step). `position` may be any number; neighbours are independent.
class RandomStream {
 public:
  RandomStream(uint64_t seed, Stream stream, uint64_t index);

  /// Block `position`: four uniform 32-bit integers.
  std::array<uint32_t, 4> block(uint64_t position) const;
  /// Uniform in [0, 1) with 53 bits, from block `position`.
  double uniform(uint64_t position) const;
  /// Standard normal (Box–Muller), from block `position`.
  double normal(uint64_t position) const;
  /// Uniform integer in [0, bound), without bias beyond 2^-64, from block `position`. bound > 0.
  uint64_t below(uint64_t bound, uint64_t position) const;
  /// A permutation of 0 … n−1 (Fisher–Yates from the end).
  std::vector<int64_t> permutation(int64_t n) const;

 private:
  std::array<uint32_t, 2> key_;
  uint32_t stream_;
};

}  // namespace syncbn
