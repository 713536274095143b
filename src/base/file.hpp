// Files: inputs read whole, outputs that are never seen half-written. Not collective; called by one
// rank.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/error.hpp"

namespace syncbn {

/// A file's content. Owned by a pointer, so that tensors may be views of it.
struct FileBytes {
  std::unique_ptr<uint8_t[]> data;  ///< aligned for any scalar
  size_t size = 0;
};

/// Reads a regular file whole; never waits (a pipe is refused). What it may hold is for the caller
/// to check: a file that shrinks while it is read comes back short.
/// `what` names it in messages ("configuration file"). Throws Error: kInputMissing (66) for a path
/// that is missing, unreadable or not a regular file; `too_large` above `max_bytes`, before
/// anything of that size is allocated.
FileBytes read_regular_file(const std::string& path, const std::string& what, uint64_t max_bytes,
                            ExitCode too_large);

/// Writes `path` whole: a temporary file beside it, fsync, rename over it, fsync of the folder.
/// What stood there before stays until the rename. Throws Error(kWriteFailed) with path and reason;
/// the temporary file is removed.
void write_file(const std::string& path, const std::string& bytes);

/// Makes a folder inside one that is there, to last as `write_file`'s files do; nothing if it is
/// there. Throws Error(kWriteFailed).
void make_folder(const std::string& path);

/// A lock that one process holds through a file, and the system drops when the process dies. Works
/// among the machines that share the file's folder where its file system has flock.
class FileLock {
 public:
  /// Null if another process holds it. A symbolic link is not followed. Throws Error(kCannotCreate)
  /// with the system's reason alone: what could not be locked is for the caller to say.
  static std::unique_ptr<FileLock> take(const std::string& path);
  ~FileLock();  ///< removes the file
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  FileLock(std::string path, int file) : path_(std::move(path)), file_(file) {}
  std::string path_;
  int file_;
};

/// A file that grows by whole lines.
class LineFile {
 public:
  /// Creates the file, or cuts it to its first `keep` bytes. Throws Error: kWriteFailed, or
  /// kInputDamaged if it has fewer.
  explicit LineFile(const std::string& path, int64_t keep = 0);
  ~LineFile();
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;
  /// Writes `line` and a newline in one piece. Throws Error(kWriteFailed).
  void append(const std::string& line);
  /// Returns the file's length, once all of it is on the disk. Throws Error(kWriteFailed).
  int64_t flush() const;

 private:
  std::string path_;
  int file_;
  int64_t bytes_;
};

}  // namespace syncbn
