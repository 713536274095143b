#include "base/log.hpp"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>

namespace syncbn {
namespace {

constexpr int64_t kRedrawMs = 100;

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
  spdlog::info("{}", line);
}
void log_warning(const std::string& line) {
  spdlog::warn("warning: {}", line);
}
void log_error(const std::string& line) {
  spdlog::error("{}", line);
}

ProgressLine::ProgressLine()
    : active_(spdlog::default_logger()->should_log(spdlog::level::info) && isatty(STDERR_FILENO)) {}

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
  const auto total = static_cast<int64_t>(std::llround(seconds < 0 ? 0 : seconds));
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
