// The safetensors format: tensors under names, readable anywhere, holding no code.
//
// u64 little-endian header length, a JSON header (name → dtype, shape, offsets; "__metadata__" →
// texts), then the tensors' bytes without holes, little-endian, row-major
// (https://github.com/huggingface/safetensors, README, "Format").
//
// dtypes here: float32, float64, float16, bfloat16, int64, uint8. Knows nothing of MPI and of
// files.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace syncbn {

/// In the order of the file.
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// The bytes of a safetensors file. Tensors of any device; order is kept. Names and texts are UTF-8
/// (what is not is replaced by U+FFFD). Throws Error(kInvariant) for another dtype, a name given
/// twice, and whatever `parse_safetensors` would refuse for its size.
std::string to_safetensors(const NamedTensors& tensors,
                           const std::map<std::string, std::string>& metadata);

struct TensorFile {
  NamedTensors tensors;  ///< on the CPU, contiguous, each with memory of its own
  std::map<std::string, std::string> metadata;
};

/// Parses the bytes of a safetensors file that may be damaged or hostile; `name` is used in
/// messages. Nothing of a size that the file merely announces is allocated: memory is at most a
/// small multiple of `bytes`. Throws Error(kInputDamaged) that names the file and the damaged part
/// for anything but this format: a header above 16 MiB, other JSON than the format's (deeper,
/// doubled or unknown keys), an unknown dtype, a shape of more than 8 dimensions or of another size
/// than its bytes, offsets with holes or overlaps, bytes missing or left over.
TensorFile parse_safetensors(std::string_view bytes, const std::string& name);

}  // namespace syncbn
