// For a program that initialises MPI itself: communicators of its own MPI_Comm, without a Runtime.
// The one public header that shows MPI's types; a target that includes it links MPI::MPI_CXX.
//
//   MPI_Init(&argc, &argv);
//   {
//     const syncbn::CommPtr comm = syncbn::make_communicator(MPI_COMM_WORLD);
//     …  // train with it; no exception handling is implied
//   }
//   MPI_Finalize();
//
// Whoever initialises MPI finalises it, after the last communicator has gone (one that is left
// frees nothing). With less than MPI_THREAD_SERIALIZED, which MPI_Init gives, all calls come from
// the thread that initialised MPI: others throw Error. An exception that ends one rank alone
// leaves the others waiting, until they reach the limit, unless the program calls MPI_Abort.
#pragma once

#include <mpi.h>

#include "comm/communicator.hpp"

namespace syncbn {

/// Collective over `comm`, which is duplicated (MPI_Comm_dup) and stays the caller's; its errors
/// become exceptions in the duplicate, not in `comm`. For CPU tensors, and for CUDA tensors staged
/// through host memory.
///
/// A rank that waits in one collective of it, or of what is split off it, for `wait_limit` seconds
/// (the environment's SYNCBN_TIMEOUT comes first; 0: no limit) ends its process with 124 and a line
/// that says where; the communicator's watchdog() sets another limit.
///
/// Turns off autograd's per-device threads for the calling thread, as Runtime does: collectives
/// inside a backward must stay on it and in order. Throws Error(kSystem) if MPI is not running.
CommPtr make_communicator(MPI_Comm comm, double wait_limit = kWaitLimitS);

}  // namespace syncbn
