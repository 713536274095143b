// The collective contract in real ranks: what one rank calls otherwise, all find before data move.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "comm/contract.hpp"
#include "support/mpi_main.hpp"

namespace syncbn {
namespace {

constexpr Purpose kGradients{"gradients"};
constexpr Purpose kMoments{"batch norm's moments", 1};

at::Tensor filled(int64_t count, at::ScalarType type = at::kFloat) {
  return torch::full({count}, 1 + test_runtime().rank(), type);
}

/// One sequence of collectives for one rank, and another for all others.
struct Case {
  const char* name;
  std::function<void(Communicator&)> usual, other;
  std::string usual_text, other_text;  // of the first call that differs
};

std::function<void(Communicator&)> reduce(int64_t count, at::ScalarType type = at::kFloat,
                                          ReduceOp op = ReduceOp::kSum,
                                          const Purpose& purpose = kGradients) {
  return [=](Communicator& comm) {
    at::Tensor t = filled(count, type);
    try {
      comm.all_reduce(t, op, purpose);
    } catch (const Error&) {
      EXPECT_TRUE(torch::equal(t, filled(count, type))) << "data have moved";
      throw;
    }
  };
}

std::function<void(Communicator&)> send(int64_t count, int root, const Purpose& purpose) {
  return [=](Communicator& comm) {
    at::Tensor t = filled(count);
    try {
      comm.broadcast(t, root, purpose);
    } catch (const Error&) {
      EXPECT_TRUE(torch::equal(t, filled(count))) << "data have moved";
      throw;
    }
  };
}

std::function<void(Communicator&)> in_order(const std::function<void(Communicator&)>& a,
                                            const std::function<void(Communicator&)>& b) {
  return [=](Communicator& comm) {
    a(comm);
    b(comm);
  };
}

void gather(Communicator& comm) {
  at::Tensor t = filled(8), all = torch::zeros({comm.size(), 8});
  comm.all_gather(t, all, kGradients);
}

void exchange(Communicator& comm) {
  at::Tensor t = torch::zeros({comm.size() * 8}), out = torch::zeros_like(t);
  comm.all_to_all(t, out, kGradients);
}

std::vector<Case> cases() {
  const auto usual = reduce(8);
  const std::string text = "all_reduce (sum): gradients, 8 float32";
  const auto moments = send(8, 0, kMoments), gradients = send(8, 0, kGradients);
  const std::string moments_text = "broadcast (from 0): batch norm's moments of layer 1, 8 float32",
                    gradients_text = "broadcast (from 0): gradients, 8 float32";
  return {
      {"count", usual, reduce(9), text, "all_reduce (sum): gradients, 9 float32"},
      {"dtype", usual, reduce(4, at::kDouble), text, "all_reduce (sum): gradients, 4 float64"},
      {"op", usual, reduce(8, at::kFloat, ReduceOp::kMax), text,
       "all_reduce (max): gradients, 8 float32"},
      {"purpose", usual, reduce(8, at::kFloat, ReduceOp::kSum, kMoments), text,
       "all_reduce (sum): batch norm's moments of layer 1, 8 float32"},
      {"root", gradients, send(8, 1, kGradients), gradients_text,
       "broadcast (from 1): gradients, 8 float32"},
      {"swapped", in_order(moments, gradients), in_order(gradients, moments), moments_text,
       gradients_text},
      {"skipped", in_order(moments, usual), usual, moments_text, text},
      {"broadcast", usual, gradients, text, gradients_text},
      {"all_gather", usual, gather, text, "all_gather: gradients, 8 float32"},
      {"all_to_all", gather, exchange, "all_gather: gradients, 8 float32", "all_to_all: gradients"},
      {"split", usual, [](Communicator& comm) { comm.split(0, 0, {"statistics groups"}); }, text,
       "split: statistics groups"},
      {"barrier", usual, [](Communicator& comm) { comm.barrier({"timing"}); }, text,
       "barrier: timing"},
      {"max_on_host", [](Communicator& comm) { comm.barrier({"timing"}); },
       [](Communicator& comm) { comm.max_on_host(1, {"requests"}); }, "barrier: timing",
       "max_on_host: requests"},
      {"gather_text", usual, [](Communicator& comm) { comm.gather_text("a", {"options"}); }, text,
       "gather_text: options"}};
}

/// Changes the rule of the job's communicators while it lives.
class Rule {
 public:
  explicit Rule(const CheckRule& rule) { test_runtime().world()->check_collectives(rule); }
  ~Rule() { test_runtime().world()->check_collectives({}); }
  Rule(const Rule&) = delete;
  Rule& operator=(const Rule&) = delete;
};

enum class Where { kAllRanks, kPart };

/// A communicator that no test has used: of all ranks, or of all but the job's first. In reverse
/// order, so that a rank's place in it is not that in the job. Null on ranks that are not in it.
CommPtr fresh(Where where) {
  const int rank = test_runtime().rank();
  const bool left_out = where == Where::kPart && rank == 0 && test_runtime().size() > 2;
  return test_runtime().world()->split(left_out ? -1 : 0, -rank);
}

/// The job's rank that goes its own way: the last one, which leads `fresh`. The other of whom the
/// sentence tells comes next.
int odd_one() {
  return test_runtime().size() - 1;
}

void take(Communicator& comm, uint64_t calls) {
  for (uint64_t n = 0; n < calls; ++n) reduce(3)(comm);
}

/// What this rank says when it and the others come to `one`, after `before` equal calls.
std::string disagreement(Communicator& comm, const Case& one, uint64_t before) {
  take(comm, before);
  try {
    (test_runtime().rank() == odd_one() ? one.other : one.usual)(comm);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kDisagree);
    const bool all = comm.size() == test_runtime().size();
    EXPECT_EQ(dynamic_cast<const UsageError*>(&error) != nullptr, all)
        << "all ranks of the job end alike, or the job is aborted";
    return error.what();
  }
  return "no disagreement was found";
}

void expect_found(const Case& one, Where where, uint64_t before) {
  const CommPtr comm = fresh(where);
  if (comm == nullptr) return;
  const std::string found = disagreement(*comm, one, before);
  const std::string expected = concat("The ranks disagree about collective ", before + 1,
                                      " of a communicator of ", comm->size(), " ranks (rank ");
  EXPECT_EQ(found.substr(0, expected.size()), expected) << one.name << ": " << found;
  for (const auto& call : {concat("rank ", odd_one(), " calls ", one.other_text),
                           concat("rank ", odd_one() - 1, " calls ", one.usual_text)}) {
    EXPECT_NE(found.find(call), std::string::npos) << one.name << ": " << found;
  }
  EXPECT_NE(found.find("no data have moved in it"), std::string::npos) << one.name << found;
}

TEST(ContractOfRanks, TheFirstCollectivesOfACommunicatorAreCompared) {
  for (const Case& one : cases()) {
    expect_found(one, Where::kAllRanks, 0);
    expect_found(one, Where::kPart, 2);
  }
}

TEST(ContractOfRanks, FullComparesLaterOnesToo) {
  const Rule rule({/*full=*/true, 1000});
  for (const Case& one : cases()) {
    expect_found(one, Where::kAllRanks, Contract::kFirst + 3);
    expect_found(one, Where::kPart, Contract::kFirst + 5);
  }
}

// What MPI lets pass with wrong numbers. The rest ends in MPI's own error or in the watchdog's.
std::vector<Case> silent_cases() {
  std::vector<Case> silent;
  for (const Case& one : cases()) {
    const std::string name = one.name;
    if (name == "dtype" || name == "op" || name == "purpose" || name == "swapped") {
      silent.push_back(one);
    }
  }
  return silent;
}

TEST(ContractOfRanks, LightFindsThemAtTheNextComparison) {
  constexpr uint64_t kEvery = 20;
  const Rule rule({/*full=*/false, kEvery});
  for (const Case& one : silent_cases()) {
    for (const Where where : {Where::kAllRanks, Where::kPart}) {
      const CommPtr comm = fresh(where);
      if (comm == nullptr) continue;
      EXPECT_EQ(disagreement(*comm, one, Contract::kFirst), "no disagreement was found");
      std::string found;
      try {
        take(*comm, kEvery);
      } catch (const Error& error) {
        found = error.what();
      }
      EXPECT_EQ(comm->calls(), kEvery) << one.name;
      const std::string expected =
          concat("The ranks disagree about collective ", Contract::kFirst + 1, " of a ");
      EXPECT_EQ(found.substr(0, expected.size()), expected) << one.name << ": " << found;
      EXPECT_NE(found.find("results since are wrong"), std::string::npos) << found;
      EXPECT_NE(found.find(one.other_text), std::string::npos) << found;
    }
  }
}

TEST(ContractOfRanks, LightFindsThemWhereTextsAreGathered) {
  for (const Case& one : silent_cases()) {
    const CommPtr comm = fresh(Where::kAllRanks);
    EXPECT_EQ(disagreement(*comm, one, Contract::kFirst), "no disagreement was found");
    EXPECT_THROW(comm->gather_text("", {"the models"}), UsageError) << one.name;
  }
}

TEST(ContractOfRanks, RulesThatDifferAreFound) {
  const CommPtr comm = fresh(Where::kAllRanks);
  const bool odd = test_runtime().rank() == odd_one();
  EXPECT_THROW(comm->check_collectives({odd, 1000}), UsageError);
}

TEST(ContractOfRanks, ARankAloneIsFree) {
  const CommPtr alone = test_runtime().world()->split(test_runtime().rank(), 0);
  const Rule rule({/*full=*/true, 1});
  for (int n = 0; n < 3 * test_runtime().rank(); ++n) reduce(8 + n)(*alone);
  EXPECT_EQ(alone->size(), 1);
}

TEST(ContractOfRanks, AgreementPassesInEveryMode) {
  for (const CheckRule& asked : {CheckRule{true, 1000}, CheckRule{false, 1}, CheckRule{}}) {
    const Rule rule(asked);
    const CommPtr comm = fresh(Where::kPart);
    if (comm == nullptr) continue;
    for (int n = 0; n < 100; ++n) {
      reduce(8)(*comm);
      gather(*comm);
      exchange(*comm);
      send(5, n % comm->size(), kMoments)(*comm);
    }
    EXPECT_EQ(comm->gather_text("a").size(), static_cast<size_t>(comm->size()));
    EXPECT_NE(comm->split(0, 0), nullptr);
  }
}

}  // namespace
}  // namespace syncbn
