#include "comm/mpi_communicator.hpp"

#include <ATen/ATen.h>

#include <climits>
#include <exception>
#include <numeric>

#include "comm/argument_checks.hpp"
#include "comm/contract.hpp"
#include "comm/overlap.hpp"

namespace syncbn {
namespace {

MPI_Datatype mpi_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return MPI_FLOAT;
    case at::kDouble:
      return MPI_DOUBLE;
    case at::kInt:
      return MPI_INT32_T;
    case at::kLong:
      return MPI_INT64_T;
    case at::kByte:
      return MPI_UINT8_T;
    default:
      refuse_type(type);
  }
}

MPI_Op mpi_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return MPI_SUM;
    case ReduceOp::kMax:
      return MPI_MAX;
    case ReduceOp::kMin:
      return MPI_MIN;
  }
  throw Error("unknown ReduceOp");
}

int mpi_count(int64_t count) {
  SYNCBN_CHECK(count <= INT_MAX, "One MPI call moves at most ", INT_MAX, " elements, not ", count,
               ".");
  return static_cast<int>(count);
}

class MpiCommunicator final : public Communicator {
 public:
  /// Takes over `comm`. `rule`: that of its contract.
  MpiCommunicator(MPI_Comm comm, std::shared_ptr<Watchdog> watchdog,
                  std::shared_ptr<CheckRule> rule)
      : Communicator(std::move(watchdog), make_mpi_contract(comm, std::move(rule))), comm_(comm) {
    mpi_check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    mpi_check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  }
  ~MpiCommunicator() override {
    if (mpi_usable()) MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string backend() const override { return "mpi"; }

  void do_all_reduce(at::Tensor& t, ReduceOp op) override {
    const auto type = checked_type(t);
    if (size_ == 1 || t.numel() == 0) return;
    at::Tensor host = to_host(t);
    mpi_check(MPI_Allreduce(MPI_IN_PLACE, host.data_ptr(), mpi_count(host.numel()), type,
                            mpi_op(op), comm()),
              "MPI_Allreduce");
    if (!host.is_same(t)) t.copy_(host);
  }

  void do_all_gather(const at::Tensor& t, at::Tensor& out) override {
    const auto type = checked_type(t);
    check_gather(t, out, size_);
    if (t.numel() == 0) return;
    if (size_ == 1) {
      out.copy_(t.view_as(out));
      return;
    }
    const int count = mpi_count(t.numel());
    at::Tensor host = out.is_cpu() ? out : staging(out);
    host.view({size_, -1}).select(0, rank_).copy_(t.view({-1}));
    mpi_check(MPI_Allgather(MPI_IN_PLACE, count, type, host.data_ptr(), count, type, comm()),
              "MPI_Allgather");
    if (!host.is_same(out)) out.copy_(host);
  }

  void do_all_to_all(const at::Tensor& t, at::Tensor& out) override {
    const auto type = checked_type(t);
    check_exchange(t, out, size_);
    if (t.numel() == 0) return;
    if (size_ == 1) {
      out.copy_(t.view_as(out));
      return;
    }
    const int count = mpi_count(t.numel() / size_);
    if (t.is_cpu()) {
      mpi_check(MPI_Alltoall(t.const_data_ptr(), count, type, out.mutable_data_ptr(), count, type,
                             comm()),
                "MPI_Alltoall");
      return;
    }
    at::Tensor host = to_host(t);  // exchanged in place: one staging buffer serves both ways
    mpi_check(MPI_Alltoall(MPI_IN_PLACE, count, type, host.mutable_data_ptr(), count, type, comm()),
              "MPI_Alltoall");
    out.copy_(host.view_as(out));
  }

  void do_broadcast(at::Tensor& t, int root) override {
    const auto type = checked_type(t);
    check_root(root, size_);
    if (size_ == 1 || t.numel() == 0) return;
    at::Tensor host = to_host(t);
    mpi_check(MPI_Bcast(host.data_ptr(), mpi_count(host.numel()), type, root, comm()), "MPI_Bcast");
    if (!host.is_same(t)) t.copy_(host);
  }

  // The device waits for no rank here: collectives are done when their calls return.
  void wait(const DeviceMark& mark) override { mark.wait(); }

  void do_barrier() override {
    if (size_ > 1) mpi_check(MPI_Barrier(comm()), "MPI_Barrier");
  }

  CommPtr do_split(int color, int key) override {
    MPI_Comm part = MPI_COMM_NULL;
    mpi_check(MPI_Comm_split(comm(), color < 0 ? MPI_UNDEFINED : color, key, &part),
              "MPI_Comm_split");
    if (part == MPI_COMM_NULL) return nullptr;
    return std::make_shared<MpiCommunicator>(part, watchdog(),
                                             contract() ? contract()->rule() : nullptr);
  }

  int64_t do_max_on_host(int64_t value) override {
    mpi_check(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT64_T, MPI_MAX, comm()),
              "MPI_Allreduce");
    return value;
  }

  std::vector<std::string> do_gather_text(const std::string& text) override {
    const auto ranks = static_cast<size_t>(size_);
    std::vector<int> lengths(ranks), starts(ranks + 1);
    const int length = mpi_count(static_cast<int64_t>(text.size()));
    mpi_check(MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, comm()),
              "MPI_Allgather");
    mpi_count(std::accumulate(lengths.begin(), lengths.end(), int64_t{0}));
    std::partial_sum(lengths.begin(), lengths.end(), starts.begin() + 1);
    std::string all(static_cast<size_t>(starts.back()), '\0');
    if (!all.empty()) {
      mpi_check(MPI_Allgatherv(text.data(), length, MPI_CHAR, all.data(), lengths.data(),
                               starts.data(), MPI_CHAR, comm()),
                "MPI_Allgatherv");
    }
    std::vector<std::string> texts(ranks);
    for (size_t r = 0; r < ranks; ++r) {
      texts[r] = all.substr(static_cast<size_t>(starts[r]), static_cast<size_t>(lengths[r]));
    }
    return texts;
  }

 private:
  /// For each call.
  MPI_Comm comm() const {
    check_mpi_thread();
    return comm_;
  }

  static MPI_Datatype checked_type(const at::Tensor& t) {
    check_sendable(t);
    return mpi_type(t.scalar_type());
  }

  /// Host memory like `t`. Pinned and kept: pinning costs far more than the copy.
  at::Tensor staging(const at::Tensor& t) {
    const auto bytes = static_cast<int64_t>(t.nbytes());
    if (!staging_.defined() || staging_.numel() < bytes) {
      staging_ = at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
    }
    return staging_.narrow(0, 0, bytes).view(t.scalar_type()).view(t.sizes());
  }

  /// `t` itself, or its values in the staging buffer. MPI never sees device memory: it would have
  /// to be CUDA-aware, and then could deadlock beside NCCL.
  at::Tensor to_host(const at::Tensor& t) {
    if (t.is_cpu()) return t;
    at::Tensor host = staging(t);
    host.copy_(t);
    return host;
  }

  MPI_Comm comm_;
  int rank_ = 0, size_ = 1;
  at::Tensor staging_;  // uint8
};

}  // namespace

void mpi_check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  const std::string failed =
      concat(call, " failed: ", std::string(text, static_cast<size_t>(length)));
  int kind = MPI_SUCCESS;
  MPI_Error_class(code, &kind);
  if (kind != MPI_ERR_TRUNCATE) throw Error(failed, ExitCode::kSystem);
  throw Error(concat(failed,
                     "; the ranks have handed in unequally many elements, or are in "
                     "different collectives: run.check = full says which, before data move"),
              ExitCode::kDisagree);
}

bool mpi_initialised() {
  int up = 0, down = 0;
  mpi_check(MPI_Initialized(&up), "MPI_Initialized");
  mpi_check(MPI_Finalized(&down), "MPI_Finalized");
  if (down != 0) throw Error("MPI is finalised and cannot start again.", ExitCode::kSystem);
  return up != 0;
}

void check_mpi_thread() {
  int level = MPI_THREAD_SINGLE, main = 0;
  mpi_check(MPI_Query_thread(&level), "MPI_Query_thread");
  if (level >= MPI_THREAD_SERIALIZED) return;
  mpi_check(MPI_Is_thread_main(&main), "MPI_Is_thread_main");
  if (main != 0) return;
  throw Error(
      "A communicator was called from a thread that did not initialise MPI, which needs "
      "MPI_THREAD_SERIALIZED or more from MPI_Init_thread.");
}

bool mpi_usable() noexcept {
  int up = 0, down = 0;
  MPI_Initialized(&up);
  MPI_Finalized(&down);
  return up != 0 && down == 0 && std::uncaught_exceptions() == 0;
}

CommPtr make_mpi_communicator(MPI_Comm comm, std::shared_ptr<Watchdog> watchdog) {
  MPI_Comm copy = MPI_COMM_NULL;
  mpi_check(MPI_Comm_dup(comm, &copy), "MPI_Comm_dup");
  // Inherited by what is duplicated or split off from it.
  mpi_check(MPI_Comm_set_errhandler(copy, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  return std::make_shared<MpiCommunicator>(copy, std::move(watchdog),
                                           std::make_shared<CheckRule>());
}

}  // namespace syncbn
