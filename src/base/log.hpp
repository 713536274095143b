// The log: plain lines on stderr, from rank 0 unless asked otherwise. Results go to stdout and
// files.
//
// log_info and log_warning print on rank 0 only; log_error prints on any rank, with its prefix.
// The progress line redraws itself on a terminal and is silent elsewhere.
#pragma once

#include <cstdint>
#include <string>

namespace syncbn {

/// Call once, after the rank is known. `host` is used in the prefix of error lines.
void log_setup(int rank, int size, const std::string& host);

void log_info(const std::string& line);
void log_warning(const std::string& line);
void log_error(const std::string& line);

/// Version of the library below the log: "1.10.0".
std::string log_library_version();

/// One line that shows how far a loop is: "epoch 2/5  step 120/468  31.2k samples/s  0:12 left".
/// Drawn by rank 0 on stderr, at most ten times a second, if that ends at a terminal: its own, or
/// that of the mpirun which started it and forwards it.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();  ///< clears the line
  bool active() const { return active_; }
  void update(const std::string& text);
  void clear();

 private:
  bool active_;
  int64_t last_draw_ms_ = 0;
  bool drawn_ = false;
};

/// "0:12", "1:02:03".
std::string format_duration(double seconds);

}  // namespace syncbn
