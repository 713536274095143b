// The sum over ranks of a model's gradients, for a training loop of one's own:
//
//   loss.backward();                                        // this rank's part of the batch's loss
//   syncbn::reduce_gradients(model->parameters(), world);   // the gradients of all of it
//   optimizer.step();
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "comm/communicator.hpp"

namespace syncbn {

/// Collective. The gradient of every parameter ← its plain sum over the ranks, in place and in its
/// own layout, with the same bits on every rank. A parameter whose gradient is undefined on all
/// ranks (frozen, or unused) is passed over.
///
/// All gradients of one dtype and device travel in one flat sum, which for the time of the call
/// takes as much memory as they do. float16 and bfloat16 are summed in float32 and rounded once.
/// Every call compares the ranks' gradients first (a digest per rank, on the host), so that a
/// difference ends in a sentence and not in a wait or a mixed-up sum.
///
/// Errors, thrown by every rank alike: UsageError(kDisagree) that names the first parameter, by its
/// place in the list and its shape, and the ranks that differ, when a gradient is undefined on some
/// ranks only or has another shape or dtype there, or when the ranks hand in different numbers of
/// parameters; UsageError for a gradient that is sparse or of a dtype without a sum here. Error on
/// a null communicator or an undefined parameter.
void reduce_gradients(const std::vector<at::Tensor>& parameters, const CommPtr& comm);

}  // namespace syncbn
