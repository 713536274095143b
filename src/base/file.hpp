// Files that are never seen half-written. Not collective; called by one rank.
#pragma once

#include <string>

namespace syncbn {

/// Writes `path` whole: a temporary file beside it, fsync, rename over it, fsync of the folder.
/// What stood there before stays until the rename. Throws Error(kWriteFailed) with path and reason;
/// the temporary file is removed.
void write_file(const std::string& path, const std::string& bytes);

/// A file that grows by whole lines.
class LineFile {
 public:
  /// Creates or empties the file. Throws Error(kWriteFailed).
  explicit LineFile(const std::string& path);
  ~LineFile();
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;
  /// Writes `line` and a newline in one piece. Throws Error(kWriteFailed).
  void append(const std::string& line);

 private:
  std::string path_;
  int file_;
};

}  // namespace syncbn
