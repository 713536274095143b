// Signals that come before main wait. Loading LibTorch takes a program's first tenths of a second,
// in which SIGUSR1, the request to stop, would kill the job before `install_stop_signals`
// (comm/stop.hpp) can note it. So the programs name this library as one that audits their loading
// (man 7 rtld-audit): the loader calls it before it loads anything else. It blocks the two signals,
// which wait until install_stop_signals lets them through, and asks not to be called again.
#include <csignal>

extern "C" __attribute__((visibility("default"))) unsigned la_version(unsigned /*of the loader*/) {
  sigset_t both;
  sigemptyset(&both);
  sigaddset(&both, SIGUSR1);
  sigaddset(&both, SIGTERM);
  sigprocmask(SIG_BLOCK, &both, nullptr);
  constexpr unsigned kNothingToAudit = 0;
  return kNothingToAudit;
}
