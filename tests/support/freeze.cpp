// LD_PRELOADed into one rank of a job: stops it (SIGSTOP) in the MPI call that SYNCBN_FREEZE names,
// as a host that hangs there would.
#include <mpi.h>

#include <csignal>
#include <cstdlib>
#include <cstring>

namespace {

void freeze_in(const char* call) {
  const char* named = std::getenv("SYNCBN_FREEZE");
  if (named != nullptr && std::strcmp(named, call) == 0) raise(SIGSTOP);
}

}  // namespace

extern "C" {

int MPI_Finalize() {
  freeze_in("MPI_Finalize");
  return PMPI_Finalize();
}

int MPI_Allgather(const void* from, int count, MPI_Datatype type, void* into, int counts,
                  MPI_Datatype types, MPI_Comm comm) {
  freeze_in("MPI_Allgather");
  return PMPI_Allgather(from, count, type, into, counts, types, comm);
}
}
