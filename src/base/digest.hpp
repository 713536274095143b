// SHA-256 (FIPS 180-4), by OpenSSL: is this the content that was meant? It finds damage, not
// malice: whoever may change a file may change the digest beside it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace syncbn {

/// SHA-256 of the pieces one after the other, as 64 lower-case hexadecimal digits.
std::string sha256(const std::vector<std::string_view>& pieces);

}  // namespace syncbn
