// Any bytes as a safetensors file, and as a checkpoint. The checkpoint's digest is mended first, or
// nothing behind its check would ever be reached.
#include <algorithm>

#include "base/digest.hpp"
#include "fuzz.hpp"
#include "train/checkpoint.hpp"

namespace {

using namespace syncbn;

constexpr size_t kDigits = 64;

// The digest is that of all bytes with its own digits as zeros (train/checkpoint.hpp).
void mend_digest(std::string& bytes) {
  const std::string key = "\"checkpoint.sha256\":\"";
  const size_t place = bytes.find(key);
  if (place == std::string::npos || bytes.size() - place < key.size() + kDigits) return;
  const auto digits = bytes.begin() + static_cast<std::ptrdiff_t>(place + key.size());
  std::fill_n(digits, kDigits, '0');
  const std::string digest = sha256({bytes});
  std::copy(digest.begin(), digest.end(), digits);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes(text_of(data, size));
  answer([&] { parse_safetensors(bytes, "input"); });
  mend_digest(bytes);
  answer([&] { from_bytes(bytes, "input"); });
  return 0;
}
