// A sum over ranks that autograd differentiates, to any order.
//
// With respect to the *sum* of the ranks' losses, each rank's part is in the total of every rank,
// so that its gradient is the sum over ranks of the totals' gradients: the adjoint of a sum over
// ranks is a sum over ranks. torch.distributed.nn.functional.all_reduce has the same convention.
#pragma once

#include <ATen/core/Tensor.h>

#include "comm/communicator.hpp"

namespace syncbn {

/// → Σ over the ranks of t, with the same bits on every rank, in t's shape, contiguous; t stays as
/// it is. float32 or float64, of the same shape everywhere, on the communicator's device.
///
/// Collective, and so is each derivative that is taken of it: every rank takes the same ones.
/// Errors: those of Communicator::all_reduce.
at::Tensor sum_over_ranks(const at::Tensor& t, const CommPtr& comm);

}  // namespace syncbn
