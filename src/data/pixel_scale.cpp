#include "data/pixel_scale.hpp"

#include <array>
#include <cmath>

#include "base/error.hpp"

namespace syncbn {

PixelScale pixel_scale(const std::string& name, const PixelScale& standard) {
  if (name == "unit") return {0, 1};
  if (name == "half") return {0.5, 0.5};
  if (name == "standard") {
    if (standard.divisor > 0) return standard;
    throw UsageError(concat("data.scale = standard divides by the deviation of the training "
                            "images' pixels, which are all ",
                            std::lround(standard.shift * 255), "; choose another data.scale"),
                     ExitCode::kInputDamaged);
  }
  SYNCBN_CHECK(name == "binary", "unknown data.scale ", name);
  return {0.5, 1, /*binary=*/true};
}

const PixelScale* published_standard(const std::string& data) {
  static constexpr PixelScale kMnist{0.1307, 0.3081}, kFashionMnist{0.2860, 0.3530};
  return data == "mnist" ? &kMnist : data == "fashion-mnist" ? &kFashionMnist : nullptr;
}

PixelScale computed_standard(const uint8_t* images, int64_t pixels,
                             const std::vector<int64_t>& rows) {
  std::array<int64_t, 256> counts{};
  for (const int64_t row : rows) {
    const uint8_t* image = images + row * pixels;
    for (int64_t p = 0; p < pixels; ++p) ++counts[image[p]];
  }
  const double n = static_cast<double>(pixels) * static_cast<double>(rows.size());
  const auto average = [&](const auto& of) {
    double sum = 0;
    for (size_t byte = 0; byte < counts.size(); ++byte) {
      sum += of(static_cast<double>(byte) / 255) * static_cast<double>(counts[byte]);
    }
    return sum / n;
  };
  const double mean = average([](double x) { return x; });
  const double variance = average([&](double x) { return (x - mean) * (x - mean); });
  const bool constant = counts[images[rows.at(0) * pixels]] == static_cast<int64_t>(n);
  return {mean, constant ? 0 : std::sqrt(variance)};
}

}  // namespace syncbn
