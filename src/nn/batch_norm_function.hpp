// Batch norm over the samples of all ranks as a function that autograd differentiates, to any
// order: what nn/sync_batch_norm.hpp calls in training.
//
//   x, y     (n, C) or (n, C, …)   float16, bfloat16, float32 or float64, any strides, n ≥ 0
//   gamma    (C)                   x's dtype; also float32 for float16 and bfloat16
//   beta     (C)                   as gamma
//   stats    (1, 2C+1)             float64: count, mean (C), m2 (C) over all ranks
//
// Statistics and sums are float64, and each element is computed in float64 (nn/norm_kernels.hpp).
// y and x's gradient have the memory format that at::batch_norm gives them: that which
// x.suggest_memory_format() names, dense.
#pragma once

#include <ATen/core/Tensor.h>

#include "comm/communicator.hpp"

namespace syncbn {

struct Normalised {
  at::Tensor y, stats;  ///< stats carry no gradient
};

/// Collective: one all_gather. Its backward is collective, too, whether it is recorded
/// (create_graph) or not, and so is the backward of what was recorded.
/// - Not recorded, it runs the passes of nn/norm_kernels.hpp around one all_gather.
/// - Recorded, it is made of differentiable operations around one sum_over_ranks, in float64; the
///   backward of these holds two sums over ranks.
/// The gradient of x is that of the sum over ranks of the ranks' losses; those of γ and β are this
/// rank's part. Of no samples at all y is empty and stats are 0.
Normalised normalise_over_ranks(const at::Tensor& x, const at::Tensor& gamma,
                                const at::Tensor& beta, double eps, const CommPtr& comm);

}  // namespace syncbn
