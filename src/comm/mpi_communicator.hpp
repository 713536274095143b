// Internal to comm/*.cpp: the one header that shows MPI's types.
#pragma once

#include <mpi.h>

#include "comm/communicator.hpp"

namespace syncbn {

/// Throws Error(kSystem) with the call's name and MPI's own text unless `code` is MPI_SUCCESS;
/// Error(kDisagree) if a message did not fit.
void mpi_check(int code, const char* call);

/// True between MPI_Init and MPI_Finalize, while no exception unwinds: when a destructor may still
/// call MPI without leaving itself or a peer waiting.
bool mpi_usable() noexcept;

/// Collective over `comm`, which stays the caller's: the contract of a communicator of its ranks,
/// who compare over a duplicate of it. Null for one rank.
std::shared_ptr<Contract> make_mpi_contract(MPI_Comm comm, std::shared_ptr<CheckRule> rule);

/// Throws Error where MPI gives less than MPI_THREAD_SERIALIZED and this is another thread than the
/// one that initialised it.
void check_mpi_thread();

/// True from MPI_Init on. Throws Error(kSystem) if MPI is finalised: it cannot start again.
bool mpi_initialised();

/// Collective over `comm`, which is duplicated and stays the caller's. `watchdog` (may be null)
/// learns of its collectives.
CommPtr make_mpi_communicator(MPI_Comm comm, std::shared_ptr<Watchdog> watchdog);

}  // namespace syncbn
