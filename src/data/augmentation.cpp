#include "data/augmentation.hpp"

#include <algorithm>
#include <cmath>

#include "base/error.hpp"

namespace syncbn {
namespace {

// Uniform in [−kPad, kPad] but for a bias of 2^-32.
int64_t shift_of(uint32_t draw) {
  constexpr uint64_t kPlaces = 2 * Augmentation::kPad + 1;
  return static_cast<int64_t>(draw * kPlaces >> 32) - Augmentation::kPad;
}

}  // namespace

Augmentation::Augmentation(const std::string& name, uint64_t seed, int64_t pixels)
    : crops_(name != "none"),
      flips_(name == "crop-flip"),
      seed_(seed),
      side_(std::llround(std::sqrt(static_cast<double>(pixels)))) {
  SYNCBN_CHECK(name == "none" || name == "crop" || name == "crop-flip", "unknown data.augment ",
               name);
  SYNCBN_CHECK(side_ * side_ == pixels, pixels, " pixels are no square image.");
}

void Augmentation::start_epoch(int64_t epoch) {
  draws_.emplace(seed_, Stream::kAugmentation, static_cast<uint64_t>(epoch));
}

void Augmentation::operator()(int64_t place, const uint8_t* in, uint8_t* out) const {
  if (!crops_) {
    std::copy_n(in, side_ * side_, out);
    return;
  }
  SYNCBN_CHECK(draws_, "No epoch has begun.");
  const auto draw = draws_->block(static_cast<uint64_t>(place));
  const int64_t down = shift_of(draw[0]), right = shift_of(draw[1]);
  const bool mirrors = flips_ && draw[2] % 2 == 1;
  // Row y of the crop is row y + down of the image; of its pixels those inside the image.
  const int64_t first = std::max<int64_t>(0, -right), last = side_ - std::max<int64_t>(0, right);
  for (int64_t y = 0; y < side_; ++y, out += side_) {
    std::fill_n(out, side_, uint8_t{0});
    if (y + down < 0 || y + down >= side_) continue;
    const uint8_t* row = in + (y + down) * side_ + right;
    std::copy(row + first, row + last, out + first);
    if (mirrors) std::reverse(out, out + side_);
  }
}

}  // namespace syncbn
