#include "base/file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace syncbn {
namespace {

constexpr mode_t kReadableByAll = 0644;

class Descriptor {
 public:
  explicit Descriptor(int file) : file_(file) {}
  ~Descriptor() {
    if (file_ >= 0) ::close(file_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return file_; }
  int release() { return std::exchange(file_, -1); }

 private:
  int file_;
};

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

std::string host_name() {
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);  // cut if longer, which serves as well
  return name;
}

void sync_folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const Descriptor file(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ::fsync(file.get());  // fails without harm: a folder that may not be read is still written to
}

}  // namespace

// Into memory, not mapped: a file that is cut while we run must not end us by SIGBUS.
FileBytes read_regular_file(const std::string& path, const std::string& what, uint64_t max_bytes,
                            ExitCode too_large) {
  const auto refuse = [&](const std::string& why, ExitCode code) {
    throw Error(concat("cannot read ", what, " '", path, "': ", why), code);
  };
  const auto refuse_errno = [&] { refuse(std::strerror(errno), ExitCode::kInputMissing); };
  // Non-blocking, for a pipe without a writer would stop an ordinary open.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  struct stat info {};
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0) refuse_errno();
  if (!S_ISREG(info.st_mode)) {
    refuse(concat("expected a regular file, found ",
                  S_ISDIR(info.st_mode) ? "a folder" : "something else"),
           ExitCode::kInputMissing);
  }
  const auto size = static_cast<uint64_t>(info.st_size);
  if (size > max_bytes) {
    refuse(concat("it has ", size, " bytes, expected at most ", max_bytes), too_large);
  }
  FileBytes bytes{std::unique_ptr<uint8_t[]>(new uint8_t[size]), 0};  // not zeroed first
  while (bytes.size < size) {
    const ssize_t got = ::read(file.get(), bytes.data.get() + bytes.size, size - bytes.size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse_errno();
    if (got == 0) break;
    bytes.size += static_cast<size_t>(got);
  }
  return bytes;
}

void write_file(const std::string& path, const std::string& bytes) {
  const std::string temporary = concat(path, ".tmp-", host_name(), "-", ::getpid());
  try {
    write_new(temporary, bytes);
    if (std::rename(temporary.c_str(), path.c_str()) != 0) fail("rename to", path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_folder_of(path);
}

void make_folder(const std::string& path) {
  constexpr mode_t kEnteredByAll = 0755;
  if (::mkdir(path.c_str(), kEnteredByAll) == 0) {
    sync_folder_of(path);
  } else if (errno != EEXIST) {
    fail("create the folder", path);
  }
}

std::unique_ptr<FileLock> FileLock::take(const std::string& path) {
  for (;;) {
    Descriptor file(
        ::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, kReadableByAll));
    if (file.get() < 0) {
      const bool is_link = errno == ELOOP;
      throw Error(is_link ? concat("'", path, "' is a symbolic link") : std::strerror(errno),
                  ExitCode::kCannotCreate);
    }
    if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return nullptr;
      throw Error(std::strerror(errno), ExitCode::kCannotCreate);
    }
    // A holder that ends removes the file; a lock on one that was removed meanwhile holds nobody
    // off.
    struct stat ours {
    }, there{};
    const bool found = ::fstat(file.get(), &ours) == 0 && ::lstat(path.c_str(), &there) == 0;
    if (found && ours.st_dev == there.st_dev && ours.st_ino == there.st_ino) {
      return std::unique_ptr<FileLock>(new FileLock(path, file.release()));
    }
  }
}

FileLock::~FileLock() {
  ::unlink(path_.c_str());
  ::close(file_);
}

LineFile::LineFile(const std::string& path, int64_t keep)
    : path_(path),
      file_(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC,
                   kReadableByAll)),
      bytes_(keep) {
  if (file_ < 0) fail("create", path);
  struct stat now {};
  if (::fstat(file_, &now) != 0) fail("read", path);
  if (now.st_size < keep) {
    ::close(file_);
    throw Error(concat("'", path, "' has ", now.st_size, " bytes, and the checkpoint counts on ",
                       keep, ": it was cut or replaced since; put it back, or start the run anew"),
                ExitCode::kInputDamaged);
  }
  if (::ftruncate(file_, keep) != 0) fail("cut", path);
}

LineFile::~LineFile() {
  ::close(file_);
}

void LineFile::append(const std::string& line) {
  write_all(file_, line + '\n', path_);
  bytes_ += static_cast<int64_t>(line.size()) + 1;
}

int64_t LineFile::flush() const {
  if (::fsync(file_) != 0) fail("flush", path_);
  return bytes_;
}

}  // namespace syncbn
