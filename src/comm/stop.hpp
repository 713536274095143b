// A request to stop: a job that is asked to end by a signal ends at the next step, with a
// checkpoint and exit code 75 (stopped, can be resumed), instead of in the middle of one.
//
// What Open MPI's mpirun (4.1) does with the signals it gets:
//   SIGUSR1                  sent on to every rank; mpirun waits, and the ranks' exit code is the
//                            job's. This is the signal to stop a job with: `kill -USR1` of mpirun's
//                            process, or under Slurm `--signal=B:USR1@120` with a trap in the batch
//                            script that signals mpirun.
//   SIGTERM, SIGINT, SIGHUP  ranks get SIGTERM and, a second later, SIGKILL; the job's code is 1
//                            whatever they return. What is saved within that second is kept; a save
//                            that is cut short leaves the checkpoint before it.
// The second of grace is the MCA parameter odls_base_sigkill_timeout. Do not raise it: a job that
// fails in any way then takes twice that long to end.
#pragma once

namespace syncbn {

/// From now on SIGUSR1 and SIGTERM ask this process to stop instead of ending it, however often
/// they come; one that waited since the program was loaded (apps/early_signals.cpp) arrives now.
/// Whoever calls this must heed `stop_requested`; the watchdog (comm/watchdog.hpp) ends the process
/// on SIGTERM where nobody does. SIGINT stays as it is. SIGXFSZ is ignored, so that a write beyond
/// a limit of file size fails instead, with a sentence.
void install_stop_signals();

/// Has a signal asked this process to stop? Never false again once true. Ranks hear of a signal at
/// different moments, so let them agree at the end of a step before any acts on it. Any thread.
bool stop_requested() noexcept;

/// Was one of those signals SIGTERM? Any thread.
bool termination_requested() noexcept;

}  // namespace syncbn
