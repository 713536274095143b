#include "base/random.hpp"

#include <cmath>
#include <numeric>
#include <utility>

namespace syncbn {
namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
constexpr int kRounds = 10;

uint64_t join(uint32_t high, uint32_t low) {
  return (uint64_t{high} << 32) | low;
}

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> c, std::array<uint32_t, 2> key) {
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = uint64_t{kMultiplier0} * c[0];
    const uint64_t product1 = uint64_t{kMultiplier1} * c[2];
    c = {static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ key[0], static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ key[1], static_cast<uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return c;
}

// The index is folded into the key by one Philox call of its own, so that the whole 64-bit position
// stays free and (seed, stream, index) triples do not collide by simple arithmetic.
RandomStream::RandomStream(uint64_t seed, Stream stream, uint64_t index)
    : stream_(static_cast<uint32_t>(stream)) {
  const auto mixed =
      philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), stream_, 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  key_ = {mixed[0], mixed[1]};
}

std::array<uint32_t, 4> RandomStream::block(uint64_t position) const {
  return philox4x32(
      {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), stream_, 1}, key_);
}

double RandomStream::uniform(uint64_t position) const {
  const auto b = block(position);
  return static_cast<double>(join(b[0], b[1]) >> 11) * 0x1.0p-53;
}

double RandomStream::normal(uint64_t position) const {
  constexpr double kTwoPi = 6.283185307179586476925;
  const auto b = block(position);
  const double u = (static_cast<double>(join(b[0], b[1]) >> 11) + 0.5) * 0x1.0p-53;  // (0, 1)
  const double v = static_cast<double>(join(b[2], b[3]) >> 11) * 0x1.0p-53;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(kTwoPi * v);
}

uint64_t RandomStream::below(uint64_t bound, uint64_t position) const {
  const auto b = block(position);
  const unsigned __int128 product = static_cast<unsigned __int128>(join(b[0], b[1])) * bound;
  return static_cast<uint64_t>(product >> 64);
}

std::vector<int64_t> RandomStream::permutation(int64_t n) const {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  for (auto i = static_cast<size_t>(n); i > 1; --i) {
    std::swap(order[i - 1], order[below(i, i)]);
  }
  return order;
}

}  // namespace syncbn
