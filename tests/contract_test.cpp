// The collective contract, between threads that stand for ranks: a fake of the channel by which
// ranks compare, so that nothing but the contract can find a difference. contract_mpi_test has the
// same faults in communicators of real ranks.
#include "comm/contract.hpp"

#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <set>
#include <thread>

#include "base/error.hpp"
#include "support/job.hpp"

namespace syncbn {
namespace {

/// Where `size` threads meet and see what each has brought.
class Meeting {
 public:
  explicit Meeting(size_t size) : brought_(size) {}

  std::vector<std::string> exchange(size_t rank, const std::string& text) {
    std::unique_lock lock(mutex_);
    const uint64_t round = round_;
    brought_[rank] = text;
    if (++present_ == brought_.size()) {
      seen_ = brought_;
      present_ = 0;
      ++round_;
      all_here_.notify_all();
    }
    all_here_.wait(lock, [&] { return round_ != round; });
    return seen_;
  }
  uint64_t rounds() const { return round_; }

 private:
  std::mutex mutex_;
  std::condition_variable all_here_;
  std::vector<std::string> brought_, seen_;
  size_t present_ = 0;
  uint64_t round_ = 0;
};

class FakeChannel final : public ControlChannel {
 public:
  FakeChannel(Meeting& meeting, size_t rank, bool whole)
      : meeting_(meeting), rank_(rank), whole_(whole) {}
  bool same(uint64_t number) override {
    const auto numbers = meeting_.exchange(rank_, std::to_string(number));
    return std::set<std::string>(numbers.begin(), numbers.end()).size() == 1;
  }
  std::vector<std::string> gather(const std::string& text) override {
    return meeting_.exchange(rank_, text);
  }
  int world_rank() const override { return static_cast<int>(rank_) + (whole_ ? 0 : 10); }
  bool whole_job() const override { return whole_; }

 private:
  Meeting& meeting_;
  size_t rank_;
  bool whole_;
};

/// A rank's communicator, as far as its contract knows it.
class Rank {
 public:
  explicit Rank(Contract& contract) : contract_(contract) {}
  void call(const CollectiveCall& call) { contract_.enter(call, ++calls_); }

 private:
  Contract& contract_;
  uint64_t calls_ = 0;
};

using Program = std::function<void(Rank&, size_t rank)>;

struct Outcome {
  std::vector<std::string> messages;  // of each rank; empty: it came through
  std::vector<bool> usage;
  uint64_t comparisons = 0;
};

Outcome run(size_t ranks, const CheckRule& rule, const Program& program, bool whole = true) {
  Meeting meeting(ranks);
  Outcome outcome{std::vector<std::string>(ranks), std::vector<bool>(ranks, false)};
  std::vector<char> usage(ranks, 0);
  std::vector<std::thread> threads;
  for (size_t r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      Contract contract(std::make_shared<FakeChannel>(meeting, r, whole),
                        std::make_shared<CheckRule>(rule));
      try {
        Rank rank(contract);
        program(rank, r);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kDisagree);
        usage[r] = dynamic_cast<const UsageError*>(&error) != nullptr ? 1 : 0;
        outcome.messages[r] = error.what();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (size_t r = 0; r < ranks; ++r) outcome.usage[r] = usage[r] != 0;
  outcome.comparisons = meeting.rounds();
  return outcome;
}

CollectiveCall sum(const char* what, int64_t elements = 8, int layer = -1) {
  return {CallKind::kAllReduce, {what, layer}, elements, at::kFloat, 0};
}

CollectiveCall changed(const std::function<void(CollectiveCall&)>& change) {
  CollectiveCall call = sum("gradients", 8, 1);
  change(call);
  return call;
}

/// `ranks` ranks of which the last calls `other` instead of `call`.
Outcome differ(size_t ranks, const CollectiveCall& call, const CollectiveCall& other) {
  return run(ranks, {}, [&](Rank& self, size_t rank) {
    self.call(sum("losses"));
    self.call(rank + 1 == ranks ? other : call);
  });
}

TEST(Contract, FindsEveryFieldThatDiffers) {
  const CollectiveCall call = changed([](CollectiveCall&) {});
  const std::vector<std::pair<std::string, CollectiveCall>> others = {
      {"all_reduce (sum): gradients of layer 1, 9 float32",
       changed([](CollectiveCall& c) { c.elements = 9; })},
      {"all_reduce (sum): gradients of layer 1, 8 float64",
       changed([](CollectiveCall& c) { c.dtype = at::kDouble; })},
      {"all_reduce (max): gradients of layer 1, 8 float32",
       changed([](CollectiveCall& c) { c.detail = static_cast<int>(ReduceOp::kMax); })},
      {"all_reduce (sum): gradients of layer 2, 8 float32",
       changed([](CollectiveCall& c) { c.purpose.layer = 2; })},
      {"all_reduce (sum): gradients, 8 float32",
       changed([](CollectiveCall& c) { c.purpose.layer = -1; })},
      {"all_reduce (sum): moments of layer 1, 8 float32",
       changed([](CollectiveCall& c) { c.purpose.what = "moments"; })},
      {"broadcast (from 0): gradients of layer 1, 8 float32",
       changed([](CollectiveCall& c) { c.kind = CallKind::kBroadcast; })},
      {"all_gather: gradients of layer 1, 8 float32",
       changed([](CollectiveCall& c) { c.kind = CallKind::kAllGather; })},
      {"gather_text: options", {CallKind::kGatherText, {"options"}}}};
  for (const size_t ranks : {2, 3, 4}) {
    for (const auto& [text, other] : others) {
      const Outcome outcome = differ(ranks, call, other);
      const std::string expected =
          concat("The ranks disagree about collective 2 of a communicator of ", ranks,
                 " ranks (rank ", ranks - 1,
                 " differs from rank 0): rank 0 calls all_reduce (sum): "
                 "gradients of layer 1, 8 float32; rank ",
                 ranks - 1, " calls ", text, "; no data have moved in it.");
      for (size_t r = 0; r < ranks; ++r) {
        EXPECT_EQ(outcome.messages[r].substr(0, expected.size()), expected);
        EXPECT_EQ(outcome.messages[r], outcome.messages[0]);
        EXPECT_TRUE(outcome.usage[r]);
      }
    }
  }
}

TEST(Contract, AnotherRootIsAnotherCall) {
  const auto from = [](int root) {
    return CollectiveCall{CallKind::kBroadcast, {"weights"}, 5, at::kLong, root};
  };
  const Outcome outcome = differ(3, from(0), from(1));
  EXPECT_NE(outcome.messages[0].find("rank 0 calls broadcast (from 0): weights, 5 int64; rank 2 "
                                     "calls broadcast (from 1): weights, 5 int64"),
            std::string::npos)
      << outcome.messages[0];
}

TEST(Contract, TheTextOfAPurposeCountsAndNotItsAddress) {
  const std::string one = "the gradients of all layers", same = one;
  const std::string close = "the gradients of all layerz";
  EXPECT_EQ(differ(2, sum(one.c_str()), sum(same.c_str())).messages[0], "");
  EXPECT_NE(differ(2, sum(one.c_str()), sum(close.c_str())).messages[0], "");
  // "ab" of layer −1 and the like must not fold to the same words as other texts.
  EXPECT_NE(differ(2, sum("ab"), sum("")).messages[0], "");
  EXPECT_NE(differ(2, sum("12345678"), sum("123456781")).messages[0], "");
}

TEST(Contract, NamesEveryRankThatDiffersFromTheFirst) {
  const Outcome outcome = run(
      4, {}, [](Rank& self, size_t rank) { self.call(sum("gradients", rank % 2 == 1 ? 4 : 8)); });
  EXPECT_NE(outcome.messages[3].find("(rank 1, 3 differs from rank 0)"), std::string::npos)
      << outcome.messages[3];
}

TEST(Contract, FindsSwappedAndSkippedCollectives) {
  const Outcome swapped = run(2, {}, [](Rank& self, size_t rank) {
    self.call(sum(rank == 0 ? "moments" : "gradients"));
    self.call(sum(rank == 0 ? "gradients" : "moments"));
  });
  EXPECT_NE(swapped.messages[0].find("collective 1 of"), std::string::npos) << swapped.messages[0];
  const Outcome skipped = run(2, {}, [](Rank& self, size_t rank) {
    self.call(sum("moments"));
    if (rank == 0) self.call(sum("sums"));
    self.call(sum("gradients"));
    self.call(sum("losses"));
  });
  EXPECT_NE(skipped.messages[0].find("rank 0 calls all_reduce (sum): sums, 8 float32; rank 1 calls "
                                     "all_reduce (sum): gradients, 8 float32"),
            std::string::npos)
      << skipped.messages[0];
}

/// Steps of 4 collectives, in one of which, before call `wrong_at`, rank 1 takes a maximum.
Program steps(uint64_t count, uint64_t wrong_at) {
  return [=](Rank& self, size_t rank) {
    for (uint64_t n = 1; n <= count; ++n) {
      CollectiveCall call = sum(n % 4 == 0 ? "gradients" : "moments", 8, static_cast<int>(n % 4));
      if (rank == 1 && n == wrong_at) call.detail = static_cast<int>(ReduceOp::kMax);
      self.call(call);
    }
  };
}

TEST(Contract, TheFirstAreEachCompared) {
  EXPECT_EQ(run(2, {false, 1000}, steps(Contract::kFirst + 30, 0)).comparisons, Contract::kFirst);
  const Outcome outcome = run(2, {false, 1000}, steps(100, Contract::kFirst));
  EXPECT_NE(outcome.messages[1].find(concat("about collective ", Contract::kFirst, " of")),
            std::string::npos)
      << outcome.messages[1];
}

TEST(Contract, TheFirstAreThoseThatMoveTensors) {
  const auto program = [](Rank& self, size_t rank) {
    for (uint64_t n = 0; n < 2 * Contract::kFirst; ++n)
      self.call({CallKind::kGatherText, {"hosts"}});
    self.call(sum("gradients", rank == 1 ? 4 : 8));
  };
  EXPECT_NE(run(2, {false, 1000}, program).messages[0].find("no data have moved"),
            std::string::npos);
}

TEST(Contract, AllAreComparedByFull) {
  EXPECT_EQ(run(2, {true, 1000}, steps(500, 0)).comparisons, 500u);
  const Outcome outcome = run(2, {true, 1000}, steps(500, 333));
  EXPECT_NE(outcome.messages[0].find("about collective 333 of"), std::string::npos);
  EXPECT_NE(outcome.messages[0].find("no data have moved in it"), std::string::npos);
}

TEST(Contract, LaterOnesAreComparedByTheRunningHash) {
  EXPECT_EQ(run(2, {false, 100}, steps(500, 0)).comparisons, Contract::kFirst + 5);
  // 297 is one of the last 8 calls at 300, 210 is not.
  const Outcome near = run(2, {false, 100}, steps(500, 297));
  EXPECT_NE(near.messages[0].find(
                "about collective 297 of a communicator of 2 ranks (rank 1 differs from rank 0): "
                "rank 0 calls all_reduce (sum): moments of layer 1, 8 float32, then all_reduce "
                "(sum): moments of layer 2, 8 float32, then all_reduce (sum): moments of layer 3, "
                "8 float32; rank 1 calls all_reduce (max): moments of layer 1, 8 float32, then "),
            std::string::npos)
      << near.messages[0];
  EXPECT_NE(near.messages[0].find("results since are wrong"), std::string::npos);
  const Outcome far = run(3, {false, 100}, steps(500, 210));
  EXPECT_EQ(far.messages[0].find("The ranks disagree about a collective between number 200 and "
                                 "300 of a communicator of 3 ranks (rank 1 differs from rank 0): "),
            0u)
      << far.messages[0];
  EXPECT_EQ(far.messages[2], far.messages[0]);
}

TEST(Contract, CallsThatMoveNoTensorAreAlwaysCompared) {
  const Outcome outcome = run(2, {false, 1000}, [](Rank& self, size_t rank) {
    steps(200, 150)(self, rank);
    self.call({CallKind::kGatherText, {"the models"}});
  });
  EXPECT_EQ(outcome.messages[0].find("The ranks disagree about a collective between number 16 and "
                                     "201"),
            0u)
      << outcome.messages[0];
  EXPECT_NE(outcome.messages[0].find("by now both call gather_text: the models"),
            std::string::npos);
}

TEST(Contract, RanksThatHaveCalledUnequallyOftenAreTold) {
  const Outcome outcome = run(2, {false, 1000}, [](Rank& self, size_t rank) {
    steps(200, 0)(self, rank);
    if (rank == 0) self.call(sum("losses"));
    self.call({CallKind::kGatherText, {"the models"}});
  });
  EXPECT_NE(outcome.messages[0].find(
                "about collective 201 of a communicator of 2 ranks (rank 1 differs from rank 0): "
                "rank 0 calls all_reduce (sum): losses, 8 float32, then gather_text: the models; "
                "rank 1 calls gather_text: the models; results since"),
            std::string::npos)
      << outcome.messages[0];
}

TEST(Contract, RanksThatAreNotTheWholeJobThrowWhatEndsIt) {
  const auto uneven = [](Rank& self, size_t rank) {
    self.call(sum("gradients", 8 + static_cast<int64_t>(rank)));
  };
  const Outcome outcome = run(2, {}, uneven, /*whole=*/false);
  for (size_t r = 0; r < 2; ++r) {
    EXPECT_FALSE(outcome.usage[r]);
    EXPECT_NE(outcome.messages[r].find("rank 10 calls"), std::string::npos)
        << "ranks are those of the job: " << outcome.messages[r];
  }
}

// Whole jobs: Open MPI ends all but one of them with 0 and wrong numbers, or never.

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(ContractJob, EndsWith76AndOneSentence) {
  const std::pair<const char*, const char*> ways[] = {
      {"count",
       "about collective 1 of a communicator of 3 ranks (rank 2 differs from rank 0): rank "
       "0 calls all_reduce (sum): gradients, 8 float32; rank 2 calls all_reduce (sum): "
       "gradients, 9 float32; no data have moved in it."},
      {"kind", "rank 2 calls broadcast (from 0): weights, 8 float32; no data have moved in it."},
      {"skipped",
       "rank 0 calls all_reduce (sum): losses, 8 float32; rank 2 calls all_reduce (sum): "
       "gradients, 8 float32; no data have moved in it."},
      {"light",
       "about a collective between number 16 and 1000 of a communicator of 3 ranks (rank 2 "
       "differs from rank 0)"}};
  for (const auto& [way, expected] : ways) {
    const JobResult job = run_job(3, concat("contract_probe ", way));
    EXPECT_EQ(job.code, 76) << way << ": " << job.output;
    EXPECT_EQ(count(job.output, "contract_probe: The ranks disagree "), 1) << job.output;
    EXPECT_NE(job.output.find(expected), std::string::npos) << way << ": " << job.output;
  }
}

TEST(ContractJob, RanksThatAreAPartOfItEndItToo) {
  const JobResult job = run_job(3, "contract_probe part");
  EXPECT_EQ(job.code, 76) << job.output;
  EXPECT_GE(count(job.output,
                  "rank 1 calls all_reduce (sum): gradients, 8 float32; rank 2 calls "
                  "all_reduce (max): gradients, 8 float32"),
            1)
      << job.output;
}

TEST(ContractJob, WhatMpiItselfFindsFirstSaysHowToFindMore) {
  const JobResult job = run_job(2, "contract_probe light count");
  EXPECT_EQ(job.code, 76) << job.output;
  EXPECT_GE(count(job.output, "run.check = full"), 1) << job.output;
}

}  // namespace
}  // namespace syncbn
