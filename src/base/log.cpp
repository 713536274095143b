#include "base/log.hpp"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "base/options_text.hpp"

namespace syncbn {
namespace {

constexpr int64_t kRedrawMs = 100;

// Under mpirun stderr is a pipe to mpirun, this process's parent on its node, and stdout looks like
// a terminal whether or not mpirun's is one: so it is mpirun's own stderr that tells.
bool ends_at_terminal() {
  if (isatty(STDERR_FILENO)) return true;
  if (std::getenv("OMPI_COMM_WORLD_RANK") == nullptr) return false;
  char target[64] = "";
  const std::string link = "/proc/" + std::to_string(getppid()) + "/fd/2";
  if (readlink(link.c_str(), target, sizeof target - 1) < 0) return false;
  return std::string(target).rfind("/dev/pts/", 0) == 0 ||
         std::string(target).rfind("/dev/tty", 0) == 0;
}

int64_t now_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void log_setup(int rank, int size, const std::string& host) {
  auto logger = spdlog::get("syncbn");
  if (!logger) logger = spdlog::stderr_color_mt("syncbn");
  const bool speaks = rank == 0;
  logger->set_level(speaks ? spdlog::level::info : spdlog::level::err);
  const std::string prefix =
      speaks ? ""
             : "[rank " + std::to_string(rank) + "/" + std::to_string(size) + " " + host + "] ";
  logger->set_pattern(prefix + "%v");
  spdlog::set_default_logger(logger);
}

void log_info(const std::string& line) {
  spdlog::info("{}", printable(line));
}
void log_warning(const std::string& line) {
  spdlog::warn("warning: {}", printable(line));
}
void log_error(const std::string& line) {
  spdlog::error("{}", printable(line));
}

std::string log_library_version() {
  return std::to_string(SPDLOG_VER_MAJOR) + '.' + std::to_string(SPDLOG_VER_MINOR) + '.' +
         std::to_string(SPDLOG_VER_PATCH);
}

ProgressLine::ProgressLine()
    : active_(spdlog::default_logger()->should_log(spdlog::level::info) && ends_at_terminal()) {}

ProgressLine::~ProgressLine() {
  clear();
}

void ProgressLine::update(const std::string& text) {
  if (!active_ || now_ms() - last_draw_ms_ < kRedrawMs) return;
  last_draw_ms_ = now_ms();
  drawn_ = true;
  std::fprintf(stderr, "\r\033[K%s", text.c_str());
  std::fflush(stderr);
}

void ProgressLine::clear() {
  if (!drawn_) return;
  drawn_ = false;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
}

std::string format_duration(double seconds) {
  constexpr double kLongest = 1e15;
  const auto total = static_cast<int64_t>(std::llround(std::clamp(seconds, 0.0, kLongest)));
  char text[32];
  if (total >= 3600) {
    std::snprintf(text, sizeof text, "%lld:%02d:%02d", static_cast<long long>(total / 3600),
                  static_cast<int>(total / 60 % 60), static_cast<int>(total % 60));
  } else {
    std::snprintf(text, sizeof text, "%d:%02d", static_cast<int>(total / 60),
                  static_cast<int>(total % 60));
  }
  return text;
}

}  // namespace syncbn
