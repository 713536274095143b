// The safetensors format: tensors under names, readable anywhere, holding no code.
//
// u64 little-endian header length, a JSON header (name → dtype, shape, offsets; "__metadata__" →
// texts), then the tensors' bytes without holes, little-endian, row-major
// (https://github.com/huggingface/safetensors, README, "Format").
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace syncbn {

/// The bytes of a safetensors file. dtypes: float32, float64, int64; any device; order is kept.
std::string to_safetensors(const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                           const std::map<std::string, std::string>& metadata);

}  // namespace syncbn
