// The weights that a run begins with, from a file (model.weights).
#pragma once

#include <string>

#include "comm/communicator.hpp"
#include "train/replica.hpp"

namespace syncbn {

/// Collective over `world` (host tensors). Replaces every parameter and buffer of the replica by
/// the tensor of its name in the safetensors file `path`, which rank 0 reads and sends: float32,
/// float64, float16 or bfloat16, converted to the run's dtype; counters int64. A checkpoint
/// (train/checkpoint.hpp) is taken as well: its model, without what else it holds. Returns the
/// file's SHA-256.
///
/// Throws UsageError on all ranks: 66 for a file that is missing or no regular file; 65 for one
/// that is damaged, or whose tensors are not those of the model: each that is missing, of another
/// shape or kind, or too many is named.
std::string load_weights(Communicator& world, const std::string& path, Replica& replica);

/// The SHA-256 of the file `path`, as `load_weights` returns it; not collective. Throws Error(66)
/// for one that is missing or no regular file.
std::string digest_of_weights(const std::string& path);

}  // namespace syncbn
