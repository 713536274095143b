// A finished model's BatchNorm layers ↔ SyncBatchNorm, in place: torch.nn.SyncBatchNorm's
// convert_sync_batchnorm and revert_sync_batchnorm, for what C++ can replace.
//
//   syncbn::convert_sync_batchnorm(*model, runtime.world());
//
// An entry of a torch::nn::Sequential can be replaced, wherever in the model that Sequential is. A
// BatchNorm that a module holds in a member of its own type cannot (nor one in a ModuleList or
// ModuleDict, which callers take out by its type): the member would go on computing by itself, in
// silence. It is refused by its path, before anything is changed. docs/sync_batch_norm.md shows the
// edit that makes such a module's layer synchronized.
//
// The new layer has the *same* parameter tensors, so that an optimizer that holds them goes on, and
// requires_grad stays; the memory of the buffers, the options, dtype, device and training flag are
// those of the old. A layer that is entered in several places stays one.
#pragma once

#include <torch/nn/module.h>

#include "comm/communicator.hpp"

namespace syncbn {

/// Each BatchNorm1d, 2d and 3d below `model` → SyncBatchNorm over comm. Not collective; every rank
/// does the same. Errors (Error, `model` unchanged): no communicator; a BatchNorm that cannot be
/// replaced, or `model` itself is one; a module of a class derived from a BatchNorm, whose own
/// forward would be lost.
void convert_sync_batchnorm(torch::nn::Module& model, const CommPtr& comm);

/// The way back: each SyncBatchNorm below `model` → the BatchNorm that was converted, or the one
/// that takes the inputs it has seen (2 or 3 dimensions: BatchNorm1d; 4: 2d; 5: 3d). Not
/// collective. Errors as above, and for a SyncBatchNorm that has seen no such input.
void revert_sync_batchnorm(torch::nn::Module& model);

}  // namespace syncbn
