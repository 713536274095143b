// Errors: the kinds, the exit codes, and the check of an invariant.
//
// A message is one sentence (or two) that says what is wrong, where, what was expected, what was
// found and what to do. Nothing here ends the process: `guarded_main` (comm/runtime.hpp) alone
// catches, and alone decides between finalising and aborting MPI.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace syncbn {

/// Exit codes of all programs; they follow sysexits.h where it has a name. mpirun hands them on.
enum class ExitCode : int {
  kOk = 0,
  kUsage = 64,         ///< the command line
  kInputDamaged = 65,  ///< an input file is not what its format says
  kInputMissing = 66,  ///< an input file is missing, unreadable or not a regular file
  kUnavailable = 69,   ///< a device or backend that was asked for is not there
  kInvariant = 70,     ///< a broken invariant: non-finite loss, diverged replicas, a failed check
  kSystem = 71,        ///< MPI, CUDA or NCCL failed
  kCannotCreate = 73,  ///< the output folder cannot be made, or is in use
  kWriteFailed = 74,   ///< writing an output failed (disk full)
  kStopped = 75,       ///< stopped on request; can be resumed
  kDisagree = 76,      ///< ranks disagree about something that must be the same everywhere
  kConfig = 78,        ///< the configuration file
  kWatchdog = 124      ///< no progress within the deadline
};

/// An error that may strike one rank alone. Ends as MPI_Abort with `code()` on the rank that threw.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ExitCode code = ExitCode::kInvariant)
      : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

/// An error that a user can mend and that *every rank* throws alike (same input everywhere, or
/// after `agree`). Rank 0 prints it; all ranks finalise MPI and leave with `code()`.
class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message, ExitCode code = ExitCode::kUsage)
      : Error(message, code) {}
};

/// Streams its arguments into one string.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (void)(out << ... << parts);
  return out.str();
}

[[noreturn]] inline void check_failed(const char* expression, const char* file, int line,
                                      const std::string& message) {
  throw Error(
      concat(message, message.empty() ? "" : " ", "[", expression, " at ", file, ":", line, "]"));
}

}  // namespace syncbn

/// Throws Error(kInvariant) with expression, file, line and the message parts if `condition` is
/// false.
#define SYNCBN_CHECK(condition, ...)                                                         \
  do {                                                                                       \
    if (!(condition)) {                                                                      \
      ::syncbn::check_failed(#condition, __FILE__, __LINE__, ::syncbn::concat(__VA_ARGS__)); \
    }                                                                                        \
  } while (false)
