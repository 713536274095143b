// How bytes of an image become inputs: data.scale.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace syncbn {

/// Pixel scaling y = (x/255 − shift) / divisor; `binary`: then 1 where that is above 0, else 0.
struct PixelScale {
  double shift = 0, divisor = 1;
  bool binary = false;
};

/// Of data.scale = `name`: unit: x/255 · binary: 1 where x/255 > 0.5, else 0 · half: (x/255 −
/// 0.5)/0.5 · standard: `standard`, the data set's own. Throws UsageError(kInputDamaged) for
/// standard with a deviation of 0: every pixel is the same.
PixelScale pixel_scale(const std::string& name, const PixelScale& standard);

/// The mean and deviation of x/255 that were published with a data set; null if there are none.
///   mnist          0.1307, 0.3081: those of PyTorch's MNIST example (0.13066, 0.30811 by the
///   60,000
///                  training images; a test computes them)
///   fashion-mnist  0.2860, 0.3530: by the 60,000 training images (0.28604, 0.35302), whose SHA-256
///                  dataset.cpp has
const PixelScale* published_standard(const std::string& data);

/// The mean and deviation of x/255 over all pixels of these rows of images (stored, pixels). From
/// counts of each byte, and thus the same bits whoever computes it.
PixelScale computed_standard(const uint8_t* images, int64_t pixels,
                             const std::vector<int64_t>& rows);

}  // namespace syncbn
