#include "comm/arithmetic.hpp"

#include <ATen/Version.h>

#include <cstdlib>

#include "base/error.hpp"

namespace syncbn {

std::string arithmetic() {
  const char* cbwr = std::getenv("MKL_CBWR");
  return concat(__builtin_cpu_is("intel") != 0 ? "Intel" : "other", " CPU, ",
                at::get_cpu_capability(), ", MKL_CBWR ", cbwr == nullptr ? "not set" : cbwr);
}

}  // namespace syncbn
