// What two machines must have in common to compute the same bits.
#pragma once

#include <string>

namespace syncbn {

/// The kernels that ATen and MKL choose on this machine: "Intel CPU, AVX512, MKL_CBWR not set".
/// Canonical sums hold among ranks where this text is the same.
std::string arithmetic();

}  // namespace syncbn
