#include "data/augmentation.hpp"

#include <algorithm>

#include "base/error.hpp"

namespace syncbn {
namespace {

// Uniform in [−kPad, kPad] but for a bias of 2^-32.
int64_t shift_of(uint32_t draw) {
  constexpr uint64_t kPlaces = 2 * Augmentation::kPad + 1;
  return static_cast<int64_t>(draw * kPlaces >> 32) - Augmentation::kPad;
}

}  // namespace

Augmentation::Augmentation(const std::string& name, uint64_t seed, int64_t height, int64_t width)
    : crops_(name != "none"),
      flips_(name == "crop-flip"),
      seed_(seed),
      height_(height),
      width_(width) {
  SYNCBN_CHECK(name == "none" || name == "crop" || name == "crop-flip", "unknown data.augment ",
               name);
}

void Augmentation::start_epoch(int64_t epoch) {
  draws_.emplace(seed_, Stream::kAugmentation, static_cast<uint64_t>(epoch));
}

void Augmentation::operator()(int64_t place, const uint8_t* in, uint8_t* out) const {
  if (!crops_) {
    std::copy_n(in, height_ * width_, out);
    return;
  }
  SYNCBN_CHECK(draws_, "No epoch has begun.");
  const auto draw = draws_->block(static_cast<uint64_t>(place));
  const int64_t down = shift_of(draw[0]), right = shift_of(draw[1]);
  const bool mirrors = flips_ && draw[2] % 2 == 1;
  // Row y of the crop is row y + down of the image; of its pixels those inside the image.
  const int64_t first = std::clamp<int64_t>(-right, 0, width_);
  const int64_t last = std::max(first, width_ - std::max<int64_t>(0, right));
  for (int64_t y = 0; y < height_; ++y, out += width_) {
    std::fill_n(out, width_, uint8_t{0});
    if (y + down < 0 || y + down >= height_) continue;
    const uint8_t* row = in + (y + down) * width_;
    std::copy(row + first + right, row + last + right, out + first);
    if (mirrors) std::reverse(out, out + width_);
  }
}

}  // namespace syncbn
