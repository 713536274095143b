#include "base/file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/error.hpp"

namespace syncbn {
namespace {

constexpr mode_t kReadableByAll = 0644;

[[noreturn]] void fail(const std::string& what, const std::string& path) {
  throw Error(concat("cannot ", what, " '", path, "': ", std::strerror(errno),
                     errno == ENOSPC || errno == EDQUOT ? "; free some space and run again" : ""),
              ExitCode::kWriteFailed);
}

void write_all(int file, const std::string& bytes, const std::string& path) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::write(file, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("write", path);
    done += static_cast<size_t>(n);
  }
}

void write_new(const std::string& path, const std::string& bytes) {
  // Emptied, not refused, if there: a killed run with this process's id may have left it behind.
  const int file =
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, kReadableByAll);
  if (file < 0) fail("create", path);
  try {
    write_all(file, bytes, path);
    if (::fsync(file) != 0) fail("flush", path);
  } catch (...) {
    ::close(file);
    throw;
  }
  if (::close(file) != 0) fail("close", path);
}

void sync_folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int file = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) return;  // a folder that may not be read is still written to
  ::fsync(file);
  ::close(file);
}

}  // namespace

void write_file(const std::string& path, const std::string& bytes) {
  const std::string temporary = concat(path, ".tmp-", ::getpid());
  try {
    write_new(temporary, bytes);
    if (std::rename(temporary.c_str(), path.c_str()) != 0) fail("rename to", path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_folder_of(path);
}

LineFile::LineFile(const std::string& path)
    : path_(path),
      file_(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW | O_CLOEXEC,
                   kReadableByAll)) {
  if (file_ < 0) fail("create", path);
}

LineFile::~LineFile() {
  ::close(file_);
}

void LineFile::append(const std::string& line) {
  write_all(file_, line + '\n', path_);
}

}  // namespace syncbn
