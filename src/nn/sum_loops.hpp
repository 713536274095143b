// CPU sums over raw memory whose order knows no threads and no instruction set.
#pragma once

#include "nn/norm_loops.hpp"

namespace syncbn::loops {

/// sums[c] = Σ x over the block's rows, in float64, rounded once.
template <class T>
void column_sums(const T* x, Block block, T* sums);

/// Σ x², in float64.
template <class T>
double square_sum(const T* x, int64_t count);

}  // namespace syncbn::loops
