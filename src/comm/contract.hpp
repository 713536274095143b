// The collective contract: all ranks of a communicator call the same collectives in the same order,
// with the same operation, root, dtype and number of elements, and for the same purpose. MPI does
// not look: a maximum met with a sum, or two broadcasts in swapped order, end with wrong numbers
// and exit code 0 (measured, Open MPI 4.1.4).
//
// Each rank folds its calls into a running hash. To compare is one all-reduce of two words over a
// channel of its own, the same whatever the calls are, so that ranks which disagree about the very
// kind of the next collective still meet there, before any data moves.
//
// - Each is compared by `full`, and otherwise the first kFirst that move tensors: some steps.
// - Of the others, each that moves no tensor is (barrier, split, max_on_host, gather_text): they
//   are rare, and wait for all ranks anyway.
// - Of those that move tensors each `every`-th is. Ranks that disagreed before it have computed
//   with wrong numbers since, but not unnoticed. Each rank counts its own calls, so the ranks meet
//   without further talk; and no comparison is apart from a collective, in which, but for a
//   broadcast, every rank waits for the others by itself.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/collective_call.hpp"

namespace syncbn {

/// How often collectives are compared.
struct CheckRule {
  bool full = false;     ///< each, before it moves data
  int64_t every = 1000;  ///< else each so many-th of a communicator; at least 1
};

/// How the ranks of a communicator talk about their calls. It carries nothing else.
class ControlChannel {
 public:
  ControlChannel() = default;
  ControlChannel(const ControlChannel&) = delete;
  ControlChannel& operator=(const ControlChannel&) = delete;
  virtual ~ControlChannel() = default;

  /// Collective. Whether all ranks have handed in the same number.
  virtual bool same(uint64_t number) = 0;
  /// Collective. `text` of every rank, in rank order.
  virtual std::vector<std::string> gather(const std::string& text) = 0;
  /// The rank of this process in the whole job.
  virtual int world_rank() const = 0;
  /// Whether its ranks are all of the job, so that all of them end alike.
  virtual bool whole_job() const = 0;
};

class Contract {
 public:
  /// So many collectives of a communicator that move tensors, the first ones, are each compared. A
  /// step of a training has two to four.
  static constexpr uint64_t kFirst = 16;

  /// `rule` is that of a whole job's communicators; it may change between two collectives, the same
  /// two on all ranks.
  Contract(std::shared_ptr<ControlChannel> channel, std::shared_ptr<CheckRule> rule)
      : channel_(std::move(channel)), rule_(std::move(rule)) {}

  /// Collective when a comparison is due. `call` is this rank's next, the `number`-th (from 1 on)
  /// of the communicator. Where ranks disagree all of them throw with code kDisagree and the same
  /// sentence, which shows both calls: UsageError if they are the whole job, Error otherwise. Costs
  /// nanoseconds, and allocates nothing, when none is due.
  void enter(const CollectiveCall& call, uint64_t number) {
    number_ = number;
    hash_ = fold(hash_, call);
    recent_[number_ % kRecent] = call;
    if (moves_tensor(call.kind)) ++moving_;
    if (due(call.kind)) compare();
  }

  const std::shared_ptr<ControlChannel>& channel() const { return channel_; }
  const std::shared_ptr<CheckRule>& rule() const { return rule_; }

 private:
  static constexpr uint64_t kRecent = 8;  // calls that are kept for the report

  static uint64_t fold(uint64_t hash, const CollectiveCall& call);
  bool due(CallKind kind) const {
    return rule_->full || moving_ <= kFirst || !moves_tensor(kind) ||
           number_ % static_cast<uint64_t>(rule_->every) == 0;
  }
  void compare();
  [[noreturn]] void report();

  std::shared_ptr<ControlChannel> channel_;
  std::shared_ptr<CheckRule> rule_;
  uint64_t number_ = 0;  // of the last call
  uint64_t moving_ = 0;  // of the calls so far, those that move tensors
  uint64_t agreed_ = 0;  // the last number that was compared
  uint64_t hash_ = 0;
  std::array<CollectiveCall, kRecent> recent_;  // call n is at n % kRecent
};

}  // namespace syncbn
