#include "train/safetensors.hpp"

#include <ATen/ATen.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.hpp"

namespace syncbn {
namespace {

constexpr size_t kAlignment = 8;  // the header is padded so that the tensors' bytes are aligned

const char* dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "F32";
    case at::kDouble:
      return "F64";
    case at::kLong:
      return "I64";
    default:
      SYNCBN_CHECK(false, "no safetensors name for ", dtype);
  }
  return "";
}

}  // namespace

std::string to_safetensors(const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                           const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header;
  header["__metadata__"] = metadata;
  std::string payload;
  for (const auto& [name, value] : tensors) {
    const at::Tensor host = value.cpu().contiguous();
    const size_t begin = payload.size();
    payload.append(static_cast<const char*>(host.const_data_ptr()),
                   static_cast<size_t>(host.nbytes()));
    header[name] = {{"dtype", dtype_name(host.scalar_type())},
                    {"shape", host.sizes().vec()},
                    {"data_offsets", {begin, payload.size()}}};
  }
  std::string text = header.dump();
  text.append((kAlignment - text.size() % kAlignment) % kAlignment, ' ');
  const uint64_t length = text.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);  // x86-64 and aarch64 are little-endian
  return file + text + payload;
}

}  // namespace syncbn
