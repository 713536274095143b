// What the fuzz targets share: a refusal is the right answer to damaged bytes, and anything else
// that is thrown is a finding.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/error.hpp"

namespace syncbn {

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// Calls `read`; an Error of ours with one of the codes for bad input counts as an answer. What is
/// thrown else passes through, and libFuzzer reports it.
template <class Read>
void answer(Read&& read) {
  try {
    read();
  } catch (const Error& error) {
    switch (error.code()) {
      case ExitCode::kUsage:
      case ExitCode::kConfig:
      case ExitCode::kInputDamaged:
      case ExitCode::kInputMissing:
        return;
      default:
        throw;
    }
  }
}

}  // namespace syncbn
