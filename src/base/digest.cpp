#include "base/digest.hpp"

#include <openssl/evp.h>

#include <array>
#include <memory>

#include "base/error.hpp"

namespace syncbn {

std::string sha256(const std::vector<std::string_view>& pieces) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                        EVP_MD_CTX_free);
  bool done = context != nullptr && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1;
  for (const std::string_view piece : pieces) {
    done = done && EVP_DigestUpdate(context.get(), piece.data(), piece.size()) == 1;
  }
  std::array<unsigned char, 32> digest{};
  done = done && EVP_DigestFinal_ex(context.get(), digest.data(), nullptr) == 1;
  SYNCBN_CHECK(done, "OpenSSL cannot compute SHA-256.");
  std::string text;
  for (const unsigned char byte : digest) {
    constexpr const char* kHex = "0123456789abcdef";
    text += {kHex[byte >> 4], kHex[byte & 15]};
  }
  return text;
}

}  // namespace syncbn
