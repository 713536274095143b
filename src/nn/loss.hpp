// Softmax cross-entropy of integer labels, as torch.nn.CrossEntropyLoss(reduction="sum") divided by
// the *global* batch size, so that the sum over ranks is the loss of the batch whatever the shares.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "base/range.hpp"

namespace syncbn {

/// logits (n, classes); labels (n) int64 in [0, classes); n may be 0.
///   totals (S, 2) float64 ← [Σ −log softmax(logits)[label], number of rows whose largest logit is
///                            the label (the first of equal ones)] over rows[s]: plain sums, one
///                            row after the other
///   dlogits (n, classes) ← (softmax − onehot)·scale; undefined: not wanted. May be logits.
/// On CUDA: ATen's kernels, no host synchronisation. Not collective.
void softmax_cross_entropy(const at::Tensor& logits, const at::Tensor& labels,
                           const std::vector<Range>& rows, double scale, at::Tensor& totals,
                           at::Tensor& dlogits);

}  // namespace syncbn
