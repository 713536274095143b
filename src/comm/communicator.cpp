#include "comm/communicator.hpp"

#include <algorithm>
#include <sstream>

#include "comm/contract.hpp"
#include "comm/failure.hpp"
#include "comm/overlap.hpp"
#include "comm/watchdog.hpp"

namespace syncbn {
namespace {

/// The first line in which `a` and `b` differ, of both.
std::pair<std::string, std::string> first_difference(const std::string& a, const std::string& b) {
  std::istringstream lines_a(a), lines_b(b);
  for (;;) {
    std::string line_a, line_b;
    const bool more_a = static_cast<bool>(std::getline(lines_a, line_a));
    const bool more_b = static_cast<bool>(std::getline(lines_b, line_b));
    if (!more_a || !more_b || line_a != line_b) {
      return {more_a ? "'" + line_a + "'" : "nothing", more_b ? "'" + line_b + "'" : "nothing"};
    }
  }
}

CollectiveCall moving(CallKind kind, const Purpose& purpose, const at::Tensor& t, int detail = 0) {
  return {kind, purpose, t.numel(), t.scalar_type(), detail};
}

CollectiveCall moving_no_tensor(CallKind kind, const Purpose& purpose) {
  return {kind, purpose};
}

}  // namespace

/// Lives while a collective is under way: the one place that all of them pass.
class Communicator::Bracket {
 public:
  // It delegates, so that what throws in it passes ~Bracket.
  Bracket(Communicator& comm, const CollectiveCall& call) : Bracket(comm.watchdog_.get()) {
    ++comm.calls_;
    if (watchdog_ != nullptr) watchdog_->enter(call, comm.calls_, comm.size());
    if (comm.contract_ != nullptr) comm.contract_->enter(call, comm.calls_);
  }
  ~Bracket() {
    if (watchdog_ != nullptr) watchdog_->leave();
  }
  Bracket(const Bracket&) = delete;
  Bracket& operator=(const Bracket&) = delete;

 private:
  explicit Bracket(Watchdog* watchdog) : watchdog_(watchdog) {}

  Watchdog* watchdog_;
};

void Communicator::all_reduce(at::Tensor& t, ReduceOp op, const Purpose& purpose) {
  const Bracket bracket(*this, moving(CallKind::kAllReduce, purpose, t, static_cast<int>(op)));
  do_all_reduce(t, op);
}

void Communicator::all_gather(const at::Tensor& t, at::Tensor& out, const Purpose& purpose) {
  const Bracket bracket(*this, moving(CallKind::kAllGather, purpose, t));
  do_all_gather(t, out);
}

void Communicator::all_to_all(const at::Tensor& t, at::Tensor& out, const Purpose& purpose) {
  const Bracket bracket(*this, moving(CallKind::kAllToAll, purpose, t));
  do_all_to_all(t, out);
}

void Communicator::broadcast(at::Tensor& t, int root, const Purpose& purpose) {
  const Bracket bracket(*this, moving(CallKind::kBroadcast, purpose, t, root));
  do_broadcast(t, root);
}

void Communicator::barrier(const Purpose& purpose) {
  const Bracket bracket(*this, moving_no_tensor(CallKind::kBarrier, purpose));
  do_barrier();
}

CommPtr Communicator::split(int color, int key, const Purpose& purpose) {
  const Bracket bracket(*this, moving_no_tensor(CallKind::kSplit, purpose));
  return do_split(color, key);
}

int64_t Communicator::max_on_host(int64_t value, const Purpose& purpose) {
  const Bracket bracket(*this, moving_no_tensor(CallKind::kMaxOnHost, purpose));
  return do_max_on_host(value);
}

std::vector<std::string> Communicator::gather_text(const std::string& text,
                                                   const Purpose& purpose) {
  const Bracket bracket(*this, moving_no_tensor(CallKind::kGatherText, purpose));
  return do_gather_text(text);
}

void Communicator::check_collectives(const CheckRule& rule) {
  const Purpose purpose{rule.full ? "full checks from here on" : "light checks from here on"};
  const Bracket bracket(*this, {CallKind::kBarrier, purpose, rule.every, at::kLong});
  if (contract_ != nullptr) *contract_->rule() = rule;
}

void Communicator::wait(at::Device device) {
  DeviceMark now(device);
  now.set();
  wait(now);
}

void agree(Communicator& comm, const Purpose& purpose, const std::function<void()>& phase) {
  std::string verdict;  // empty, or the exit code, a space and the message
  try {
    phase();
  } catch (...) {
    const Failure failure = describe(std::current_exception());
    verdict = concat(static_cast<int>(failure.code), " ", failure.message);
  }
  const auto verdicts = comm.gather_text(verdict, purpose);
  const auto first = std::find_if(verdicts.begin(), verdicts.end(),
                                  [](const std::string& v) { return !v.empty(); });
  if (first == verdicts.end()) return;
  const bool common = std::count(verdicts.begin(), verdicts.end(), *first) == comm.size();
  const auto code = static_cast<ExitCode>(std::stoi(*first));
  throw UsageError(
      concat(common ? "" : concat("[rank ", first - verdicts.begin(), "/", comm.size(), "] "),
             first->substr(first->find(' ') + 1)),
      code);
}

void agree_same(Communicator& comm, const std::string& text, const char* what) {
  const auto texts = comm.gather_text(text, {what});
  std::string ranks, lines;
  for (size_t r = 1; r < texts.size(); ++r) {
    if (texts[r] == texts[0]) continue;
    if (ranks.empty()) {
      const auto [ours, theirs] = first_difference(texts[0], texts[r]);
      lines = concat("rank 0 has ", ours, ", rank ", r, " has ", theirs);
    }
    ranks += concat(ranks.empty() ? "" : ", ", r);
  }
  if (ranks.empty()) return;
  throw UsageError(concat("The ranks disagree about ", what, ": rank ", ranks,
                          " differs from rank 0; ", lines, "."),
                   ExitCode::kDisagree);
}

}  // namespace syncbn
