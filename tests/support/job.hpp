// Runs a whole job under mpiexec, for tests of how a job ends.
#pragma once

#include <sys/wait.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>

namespace syncbn {

struct JobResult {
  int code = -1;            ///< mpiexec's exit code
  std::string output;       ///< stdout and stderr of all ranks
  double seconds = 0;       ///< of the whole job
  double seconds_left = 0;  ///< from the first line "ready" to the end of the job
};

/// A variable in the environment of the jobs that run while it lives.
class JobVariable {
 public:
  JobVariable(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value, /*overwrite=*/1);
  }
  ~JobVariable() {
    if (before_) {
      setenv(name_, before_->c_str(), /*overwrite=*/1);
    } else {
      unsetenv(name_);
    }
  }
  JobVariable(const JobVariable&) = delete;
  JobVariable& operator=(const JobVariable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

/// `command`: a program of the tests' folder and its arguments, plain words.
inline JobResult run_job(int ranks, const std::string& command) {
  const auto environment = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "(run the tests with ctest)" : value);
  };
  using Clock = std::chrono::steady_clock;
  const std::string shell = environment("SYNCBN_MPIEXEC") + " --timeout 40 -n " +
                            std::to_string(ranks) + " " + environment("SYNCBN_BINARY_DIR") +
                            "/tests/" + command + " 2>&1 </dev/null";
  JobResult result;
  const auto start = Clock::now();
  FILE* pipe = popen(shell.c_str(), "r");
  if (pipe == nullptr) return result;
  auto ready = Clock::time_point::max();
  char line[4096];
  while (std::fgets(line, sizeof line, pipe) != nullptr) {
    if (ready == Clock::time_point::max() && std::string(line) == "ready\n") ready = Clock::now();
    result.output += line;
  }
  const int status = pclose(pipe);
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  result.seconds_left = std::chrono::duration<double>(Clock::now() - ready).count();
  return result;
}

}  // namespace syncbn
