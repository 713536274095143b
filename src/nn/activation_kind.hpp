// The activations, by name only: what layers, norm kernels and their loops agree on.
#pragma once

namespace syncbn {

enum class Activation { kNone, kRelu, kSigmoid, kTanh };

}  // namespace syncbn
