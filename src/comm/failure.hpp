// Internal to comm/*.cpp: what an exception means, in one place for `agree` and `guarded_main`.
#pragma once

#include <exception>
#include <string>

#include "base/error.hpp"

namespace syncbn {

struct Failure {
  ExitCode code;
  std::string message;  // of foreign exceptions the first line only (LibTorch adds a backtrace)
};

/// Errors of ours keep their code. Memory, devices and the operating system are kSystem; anything
/// else is a broken invariant.
Failure describe(const std::exception_ptr& error);

}  // namespace syncbn
