#include "comm/stop.hpp"

#include <atomic>
#include <csignal>
#include <initializer_list>

namespace syncbn {
namespace {

// A handler has nothing but what is static. Lock-free, hence safe in a handler and among threads.
std::atomic<bool> requested{false}, terminated{false};
static_assert(std::atomic<bool>::is_always_lock_free);

extern "C" void request_stop(int signal) {
  if (signal == SIGTERM) terminated.store(true);
  requested.store(true);
}

}  // namespace

void install_stop_signals() {
  struct sigaction action {};
  action.sa_handler = request_stop;
  action.sa_flags = SA_RESTART;  // a file that is being written must not see EINTR
  sigemptyset(&action.sa_mask);
  sigset_t both;
  sigemptyset(&both);
  for (const int signal : {SIGUSR1, SIGTERM}) {
    sigaction(signal, &action, nullptr);
    sigaddset(&both, signal);
  }
  pthread_sigmask(SIG_UNBLOCK, &both, nullptr);
  std::signal(SIGXFSZ, SIG_IGN);
}

bool stop_requested() noexcept {
  return requested.load();
}

bool termination_requested() noexcept {
  return terminated.load();
}

}  // namespace syncbn
