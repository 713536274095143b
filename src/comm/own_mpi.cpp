#include "comm/own_mpi.hpp"

#include <c10/core/AutogradState.h>

#include "comm/mpi_communicator.hpp"
#include "comm/watchdog.hpp"

namespace syncbn {

CommPtr make_communicator(MPI_Comm comm, double wait_limit) {
  if (!mpi_initialised()) {
    throw Error("make_communicator: call MPI_Init or MPI_Init_thread first.", ExitCode::kSystem);
  }
  int rank = 0, size = 1, length = 0;
  char host[MPI_MAX_PROCESSOR_NAME] = "";
  mpi_check(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "MPI_Comm_rank");
  mpi_check(MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
  mpi_check(MPI_Get_processor_name(host, &length), "MPI_Get_processor_name");
  const auto watchdog = std::make_shared<Watchdog>(concat("rank ", rank, "/", size, " ", host),
                                                   wait_limit_s(wait_limit), Watched::kWaits);
  watchdog->beat("the program");
  c10::AutogradState::get_tls_state().set_multithreading_enabled(false);
  const Watchdog::Waiting waiting(watchdog.get(), "the other ranks to make a communicator");
  return make_mpi_communicator(comm, watchdog);
}

}  // namespace syncbn
