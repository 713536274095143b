#include "comm/nccl_communicator.hpp"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <nccl.h>

#include <cstring>
#include <exception>
#include <utility>

#include "comm/argument_checks.hpp"
#include "comm/contract.hpp"
#include "comm/cuda_device.hpp"
#include "comm/mpi_communicator.hpp"
#include "comm/overlap.hpp"
#include "comm/poll.hpp"
#include "comm/watchdog.hpp"

namespace syncbn {
namespace {

ncclDataType_t nccl_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return ncclFloat32;
    case at::kDouble:
      return ncclFloat64;
    case at::kInt:
      return ncclInt32;
    case at::kLong:
      return ncclInt64;
    case at::kByte:
      return ncclUint8;
    default:
      refuse_type(type);
  }
}

ncclRedOp_t nccl_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return ncclSum;
    case ReduceOp::kMax:
      return ncclMax;
    case ReduceOp::kMin:
      return ncclMin;
  }
  throw Error("unknown ReduceOp");
}

/// A non-blocking communicator: a call that says "in progress" is asked after under a deadline, and
/// each call reports what has failed since the last one.
class NcclHandle {
 public:
  NcclHandle(const CommPtr& control, at::Device device, double limit_s) : limit_s_(limit_s) {
    const c10::cuda::CUDAGuard guard(device);
    ncclUniqueId id{};
    if (control->rank() == 0) require(ncclGetUniqueId(&id), "ncclGetUniqueId");
    auto bytes = at::from_blob(&id, {static_cast<int64_t>(sizeof id)}, at::kByte);
    control->broadcast(bytes, 0, {"NCCL's name of the group"});
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    try {
      complete(ncclCommInitRankConfig(&comm_, control->size(), id, control->rank(), &config),
               "ncclCommInitRankConfig");
    } catch (...) {
      abort();  // no destructor runs for what was never constructed
      throw;
    }
  }

  ~NcclHandle() {
    if (std::uncaught_exceptions() > 0) {
      abort();
    } else if (mpi_usable()) {
      try {
        complete(ncclCommFinalize(comm_), "ncclCommFinalize");
        ncclCommDestroy(comm_);
      } catch (const Error&) {
        abort();
      }
    }
  }
  NcclHandle(const NcclHandle&) = delete;
  NcclHandle& operator=(const NcclHandle&) = delete;

  ncclComm_t get() const { return comm_; }

  /// Throws Error if the call with result `code` failed; for calls inside a group.
  void issued(ncclResult_t code, const char* call) const {
    if (code != ncclInProgress) require(code, call);
  }

  /// Returns when the call with result `code` is enqueued. Throws Error if it or a peer failed.
  void complete(ncclResult_t code, const char* call) const {
    issued(code, call);
    poll_until([&] { return ready(call); }, limit_s_, call);
  }

  /// Whether no call is in progress. Throws Error if anything failed since the last question.
  bool ready(const char* call) const {
    ncclResult_t state = ncclSuccess;
    require(ncclCommGetAsyncError(comm_, &state), "ncclCommGetAsyncError");
    if (state != ncclInProgress) require(state, call);
    return state == ncclSuccess;
  }

 private:
  void require(ncclResult_t code, const char* call) const {
    if (code == ncclSuccess) return;
    throw Error(concat(call, " failed: ", ncclGetErrorString(code), ": ", ncclGetLastError(comm_),
                       " (NCCL ", cuda::nccl_version(), ")"),
                ExitCode::kSystem);
  }

  void abort() noexcept {
    if (comm_ != nullptr) ncclCommAbort(comm_);
  }

  ncclComm_t comm_ = nullptr;
  double limit_s_;
};

/// A contract for another communicator of the same ranks, who compare by the same channel and rule.
std::shared_ptr<Contract> contract_beside(const Communicator& control) {
  const auto& theirs = control.contract();
  return theirs ? std::make_shared<Contract>(theirs->channel(), theirs->rule()) : nullptr;
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(CommPtr control, at::Device device, double limit_s, bool even_alone)
      : Communicator(control->watchdog(), contract_beside(*control)),
        control_(std::move(control)),
        device_(device),
        limit_s_(limit_s) {
    if (size() > 1 || even_alone) nccl_ = std::make_unique<NcclHandle>(control_, device_, limit_s);
  }

  int rank() const override { return control_->rank(); }
  int size() const override { return control_->size(); }
  std::string backend() const override { return "nccl"; }

  void do_all_reduce(at::Tensor& t, ReduceOp op) override {
    const auto type = checked_type(t);
    if (!nccl_ || t.numel() == 0) return;
    nccl_->complete(ncclAllReduce(t.data_ptr(), t.data_ptr(), static_cast<size_t>(t.numel()), type,
                                  nccl_op(op), nccl_->get(), stream()),
                    "ncclAllReduce");
  }

  void do_all_gather(const at::Tensor& t, at::Tensor& out) override {
    const auto type = checked_type(t);
    check_gather(t, out, size());
    if (t.numel() == 0) return;
    if (!nccl_) {
      out.copy_(t.view_as(out));
      return;
    }
    nccl_->complete(ncclAllGather(t.data_ptr(), out.data_ptr(), static_cast<size_t>(t.numel()),
                                  type, nccl_->get(), stream()),
                    "ncclAllGather");
  }

  void do_all_to_all(const at::Tensor& t, at::Tensor& out) override {
    const auto type = checked_type(t);
    check_exchange(t, out, size());
    if (t.numel() == 0) return;
    if (!nccl_) {
      out.copy_(t.view_as(out));
      return;
    }
    const auto count = static_cast<size_t>(t.numel() / size());
    const size_t bytes = count * t.element_size();
    const auto* from = static_cast<const char*>(t.const_data_ptr());
    auto* into = static_cast<char*>(out.mutable_data_ptr());
    nccl_->issued(ncclGroupStart(), "ncclGroupStart");
    for (int r = 0; r < size(); ++r) {
      const auto offset = static_cast<size_t>(r) * bytes;
      nccl_->issued(ncclSend(from + offset, count, type, r, nccl_->get(), stream()), "ncclSend");
      nccl_->issued(ncclRecv(into + offset, count, type, r, nccl_->get(), stream()), "ncclRecv");
    }
    nccl_->complete(ncclGroupEnd(), "ncclGroupEnd");
  }

  void do_broadcast(at::Tensor& t, int root) override {
    const auto type = checked_type(t);
    check_root(root, size());
    if (!nccl_ || t.numel() == 0) return;
    nccl_->complete(ncclBroadcast(t.data_ptr(), t.data_ptr(), static_cast<size_t>(t.numel()), type,
                                  root, nccl_->get(), stream()),
                    "ncclBroadcast");
  }

  void wait(const DeviceMark& mark) override {
    const Watchdog::Waiting waiting(watchdog().get(), "the device");
    poll_through([&] { return ready(); }, [&] { return mark.passed(); }, limit_s_,
                 "the GPU's work");
  }

  void do_barrier() override { control_->barrier(); }

  CommPtr do_split(int color, int key) override {
    CommPtr part = control_->split(color, key);
    if (!part) return nullptr;
    auto made = std::make_shared<NcclCommunicator>(std::move(part), device_, limit_s_, false);
    parts_.push_back(made);
    return made;
  }

  int64_t do_max_on_host(int64_t value) override { return control_->max_on_host(value); }

  std::vector<std::string> do_gather_text(const std::string& text) override {
    return control_->gather_text(text);
  }

 private:
  /// Of this communicator and those split off: the device may wait in a collective of any of them.
  bool ready() const {
    bool all = !nccl_ || nccl_->ready("a collective of NCCL");
    for (const auto& part : parts_) {
      if (const auto living = part.lock()) all = living->ready() && all;
    }
    return all;
  }

  ncclDataType_t checked_type(const at::Tensor& t) const {
    check_sendable(t);
    SYNCBN_CHECK(t.device() == device_, "This NCCL communicator is for ", device_.str(),
                 ", not for a tensor on ", t.device().str(), ".");
    return nccl_type(t.scalar_type());
  }

  cudaStream_t stream() const { return c10::cuda::getCurrentCUDAStream(device_.index()); }

  CommPtr control_;
  at::Device device_;
  double limit_s_;
  std::unique_ptr<NcclHandle> nccl_;  // null for a single rank
  std::vector<std::weak_ptr<const NcclCommunicator>> parts_;
};

}  // namespace

CommPtr make_nccl_communicator(CommPtr control, at::Device device, double limit_s,
                               bool even_alone) {
  return std::make_shared<NcclCommunicator>(std::move(control), device, limit_s, even_alone);
}

std::string cuda::nccl_version() {
  int number = 0;  // 22809 is 2.28.9
  if (ncclGetVersion(&number) != ncclSuccess) return "none";
  return concat(number / 10000, '.', number / 100 % 100, '.', number % 100);
}

}  // namespace syncbn
