#include "comm/runtime.hpp"

#include <c10/core/AutogradState.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/log.hpp"
#include "base/options_text.hpp"
#include "comm/failure.hpp"
#include "comm/lone_tasks.hpp"
#include "comm/mpi_communicator.hpp"
#include "comm/stop.hpp"
#include "comm/watchdog.hpp"

namespace syncbn {
namespace {

/// MPI's life, as the first member that is made and the last that goes. Whoever initialises MPI
/// finalises it.
class MpiScope {
 public:
  MpiScope(int& argc, char**& argv) : ours_(!mpi_initialised()) {
    // Read when CUDA starts: cuBLAS repeats its bits only with workspaces of a fixed size.
    constexpr int kKeepWhatIsSet = 0;
    ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", kKeepWhatIsSet);
    if (!ours_) return;
    int provided = MPI_THREAD_SINGLE;
    mpi_check(MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
    mpi_check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN),
              "MPI_Comm_set_errhandler");
    if (provided < MPI_THREAD_SERIALIZED) {
      throw Error(concat("This MPI gives thread level ", provided, ", and MPI_THREAD_SERIALIZED (",
                         MPI_THREAD_SERIALIZED, ") is needed: use an MPI built with threads."),
                  ExitCode::kSystem);
    }
  }
  ~MpiScope() {
    if (ours_ && mpi_usable()) MPI_Finalize();
  }
  MpiScope(const MpiScope&) = delete;
  MpiScope& operator=(const MpiScope&) = delete;

 private:
  bool ours_;
};

std::string host_name() {
  char name[MPI_MAX_PROCESSOR_NAME] = "";
  int length = 0;
  mpi_check(MPI_Get_processor_name(name, &length), "MPI_Get_processor_name");
  return {name, static_cast<size_t>(length)};
}

void free_window(MPI_Win window, Watchdog* watchdog) noexcept {
  const Watchdog::Waiting waiting(watchdog, "the node's ranks to let shared memory go");
  if (mpi_usable()) MPI_Win_free(&window);
}

/// One write, so that lines of several ranks do not mix.
void print_line(const std::string& line) {
  std::fputs((printable(line) + "\n").c_str(), stderr);
  std::fflush(stderr);
}

std::string program_name(const char* path) {
  const std::string text = path;
  return text.substr(text.rfind('/') + 1);  // npos + 1 is 0
}

}  // namespace

struct Runtime::State {
  State(int& argc, char**& argv) : scope(argc, argv) {
    mpi_check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
              "MPI_Comm_split_type");
    mpi_check(MPI_Comm_set_errhandler(node, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }
  ~State() {
    if (mpi_usable()) MPI_Comm_free(&node);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  MpiScope scope;
  MPI_Comm node = MPI_COMM_NULL;  // the ranks that share this node's memory
};

Runtime::Runtime(int& argc, char**& argv, std::shared_ptr<Watchdog> watchdog)
    : watchdog_(std::move(watchdog)),
      state_(std::make_unique<State>(argc, argv)),
      world_(make_mpi_communicator(MPI_COMM_WORLD, watchdog_)),
      host_(host_name()) {
  mpi_check(MPI_Comm_rank(state_->node, &local_rank_), "MPI_Comm_rank");
  mpi_check(MPI_Comm_size(state_->node, &local_size_), "MPI_Comm_size");
  watchdog_->set_name(concat("rank ", rank(), "/", size(), " ", host_));
  c10::AutogradState::get_tls_state().set_multithreading_enabled(false);
  log_setup(rank(), size(), host_);
}

Runtime::~Runtime() {
  watchdog_->beat("the end");
  const Watchdog::Waiting waiting(watchdog_.get(), "the other ranks to end MPI");
  world_.reset();
  state_.reset();
}

std::shared_ptr<uint8_t> Runtime::node_shared_bytes(size_t bytes) {
  const Watchdog::Waiting waiting(watchdog_.get(), "shared memory of the node's ranks");
  const MPI_Aint own = local_rank_ == 0 ? static_cast<MPI_Aint>(bytes) : 0;
  uint8_t* base = nullptr;
  MPI_Win window = MPI_WIN_NULL;
  constexpr size_t kMebibyte = 1 << 20;
  const std::string call =
      concat("MPI_Win_allocate_shared of ", bytes / kMebibyte + 1,
             " MiB (too little room in /dev/shm? a container takes --shm-size=1g)");
  mpi_check(MPI_Win_allocate_shared(own, 1, MPI_INFO_NULL, state_->node, &base, &window),
            call.c_str());
  MPI_Aint size = 0;
  int unit = 1;
  mpi_check(MPI_Win_shared_query(window, 0, &size, &unit, &base), "MPI_Win_shared_query");
  if (local_rank_ == 0 && bytes > 0) std::memset(base, 0, bytes);
  node_barrier();
  return {base, [window, watchdog = watchdog_](uint8_t*) { free_window(window, watchdog.get()); }};
}

void Runtime::node_barrier() {
  const Watchdog::Waiting waiting(watchdog_.get(), "the node's other ranks");
  std::atomic_thread_fence(std::memory_order_seq_cst);
  mpi_check(MPI_Barrier(state_->node), "MPI_Barrier");
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

std::string Runtime::mpi_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  mpi_check(MPI_Get_library_version(text, &length), "MPI_Get_library_version");
  std::string version(text, static_cast<size_t>(length));  // "Open MPI v4.1.4, package: …"
  version.resize(std::min(version.size(), version.find_first_of(",\n")));
  const auto v = version.find(" v");
  return v == std::string::npos ? version : version.erase(v + 1, 1);
}

int guarded_main(int argc, char** argv, const std::function<int(Runtime&)>& body,
                 double wait_limit) {
  const std::string program = program_name(argv[0]);
  install_stop_signals();
  std::shared_ptr<Watchdog> watchdog;
  std::unique_ptr<Runtime> runtime;
  try {
    // A rank that never gets here leaves its peers in MPI_Init, which waits for ever.
    watchdog = std::make_shared<Watchdog>(concat(program, " (process ", getpid(), ")"),
                                          start_limit_s(), Watched::kEverything);
    watchdog->beat("the start");
    const double limit = wait_limit_s(wait_limit);
    {
      const Watchdog::Waiting waiting(watchdog.get(), "the other ranks to start MPI");
      runtime = std::make_unique<Runtime>(argc, argv, watchdog);
    }
    watchdog->beat("the program");
    watchdog->set_limit(limit, Watched::kWaits);
  } catch (...) {
    const Failure failure = describe(std::current_exception());
    print_line(concat(program, ": cannot start MPI: ", failure.message));
    return static_cast<int>(failure.code);
  }
  try {
    refuse_lone_tasks(runtime->size());
    return body(*runtime);
  } catch (const UsageError& error) {
    if (runtime->rank() == 0 && *error.what() != '\0')
      print_line(concat(program, ": ", error.what()));
    return static_cast<int>(error.code());
  } catch (...) {
    const Failure failure = describe(std::current_exception());
    print_line(concat("[rank ", runtime->rank(), "/", runtime->size(), " ", runtime->host(), "] ",
                      failure.message));
    MPI_Abort(MPI_COMM_WORLD, static_cast<int>(failure.code));
    return static_cast<int>(failure.code);
  }
}

}  // namespace syncbn
