#include "data/augmentation.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <vector>

#include "base/error.hpp"

namespace syncbn {
namespace {

constexpr int64_t kHeight = 6, kWidth = 5, kPixels = kHeight * kWidth;
constexpr int64_t kPad = Augmentation::kPad;
using Image = std::array<uint8_t, kPixels>;

/// Pixel i holds i + 1, so that each tells where it came from and none is the padding's 0.
Image numbered() {
  Image image{};
  std::iota(image.begin(), image.end(), uint8_t{1});
  return image;
}

Augmentation begun(const std::string& name, uint64_t seed = 1, int64_t epoch = 0) {
  Augmentation augmentation(name, seed, kHeight, kWidth);
  augmentation.start_epoch(epoch);
  return augmentation;
}

Image changed(const Augmentation& augmentation, int64_t place) {
  const Image in = numbered();
  Image out;
  out.fill(99);
  augmentation(place, in.data(), out.data());
  return out;
}

/// The crop at (down, right) of the padded image, mirrored or not, pixel by pixel.
Image expected(int64_t down, int64_t right, bool mirrored) {
  const Image in = numbered();
  Image out{};
  for (int64_t y = 0; y < kHeight; ++y) {
    for (int64_t x = 0; x < kWidth; ++x) {
      const int64_t from_y = y + down, from_x = (mirrored ? kWidth - 1 - x : x) + right;
      const bool inside = from_y >= 0 && from_y < kHeight && from_x >= 0 && from_x < kWidth;
      if (inside) out[y * kWidth + x] = in[from_y * kWidth + from_x];
    }
  }
  return out;
}

/// How often each of the possible images came out of `draws` of them; fails on any other image.
std::map<Image, int> counts(const std::string& name, int64_t draws) {
  const Augmentation augmentation = begun(name);
  std::map<Image, int> found;
  for (int64_t down = -kPad; down <= kPad; ++down) {
    for (int64_t right = -kPad; right <= kPad; ++right) {
      found[expected(down, right, false)] = 0;
      if (name == "crop-flip") found[expected(down, right, true)] = 0;
    }
  }
  for (int64_t place = 0; place < draws; ++place) {
    const auto image = found.find(changed(augmentation, place));
    EXPECT_NE(image, found.end()) << "no crop of the padded image, at place " << place;
    if (image != found.end()) ++image->second;
  }
  return found;
}

// Six deviations of a binomial count: each of the places is as likely as any other.
void expect_even(const std::map<Image, int>& found, size_t kinds, int64_t draws) {
  EXPECT_EQ(found.size(), kinds);
  const double mean = static_cast<double>(draws) / static_cast<double>(kinds);
  for (const auto& [image, count] : found) EXPECT_NEAR(count, mean, 6 * std::sqrt(mean));
}

TEST(Augmentation, CropsAreUniformOverAllPlaces) {
  expect_even(counts("crop", 20000), 25, 20000);
}

TEST(Augmentation, FlipsHalfOfTheCrops) {
  expect_even(counts("crop-flip", 40000), 50, 40000);
}

TEST(Augmentation, NoneLeavesImagesAlone) {
  const Augmentation none("none", 1, kHeight, kWidth);  // needs no epoch
  EXPECT_FALSE(none.changes());
  EXPECT_EQ(changed(none, 3), numbered());
}

TEST(Augmentation, IsAFunctionOfSeedEpochAndPlace) {
  const auto differing = [](const Augmentation& a, const Augmentation& b, int64_t shift = 0) {
    int different = 0;
    for (int64_t i = 0; i < 1000; ++i) different += changed(a, i) != changed(b, i + shift) ? 1 : 0;
    return different;
  };
  const Augmentation first = begun("crop-flip", 1, 2);
  Augmentation again = begun("crop-flip", 1, 7);
  again.start_epoch(2);
  EXPECT_EQ(differing(first, again), 0);
  // Of two independent draws out of 50, 49 differ: 980 ± 4.4.
  for (const int different :
       {differing(first, begun("crop-flip", 2, 2)), differing(first, begun("crop-flip", 1, 3)),
        differing(first, again, /*shift=*/1)}) {
    EXPECT_NEAR(different, 980, 27);
  }
}

TEST(Augmentation, AnImageSmallerThanTheShiftMayVanish) {
  Augmentation tiny("crop-flip", 1, 1, 1);
  tiny.start_epoch(0);
  const uint8_t in = 7;
  int seen = 0;
  for (int64_t place = 0; place < 1000; ++place) {
    uint8_t out = 99;
    tiny(place, &in, &out);
    ASSERT_TRUE(out == 7 || out == 0);
    seen += out == 7 ? 1 : 0;
  }
  EXPECT_NEAR(seen, 40, 38) << "one place in 25";
}

TEST(Augmentation, RefusesUnknownNamesAndNoEpoch) {
  EXPECT_THROW(Augmentation("flip", 1, kHeight, kWidth), Error);
  EXPECT_THROW(changed(Augmentation("crop", 1, kHeight, kWidth), 0), Error);
}

}  // namespace
}  // namespace syncbn
