// One suite for every communicator: MPI on host tensors, and with SYNCBN_TEST_DEVICE=cuda MPI on
// staged CUDA tensors and NCCL. Then what needs no tensors: agree, texts, shared memory.
#include <c10/core/AutogradState.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "comm/communicator.hpp"
#include "comm/cuda_device.hpp"
#include "comm/nccl_communicator.hpp"
#include "comm/overlap.hpp"
#include "support/mpi_main.hpp"
#include "support/strict.hpp"

namespace syncbn {
namespace {

const std::vector<at::ScalarType> kTypes{at::kFloat, at::kDouble, at::kInt, at::kLong, at::kByte};
const std::vector<int64_t> kCounts{0, 1, 3, 17, 1000, 70001};

/// What rank `rank` puts in; small enough for the sum of four ranks to fit in uint8.
at::Tensor values(int rank, int64_t count, at::ScalarType type) {
  return ((torch::arange(count, at::kLong) * 3 + rank * 7) % 50).to(type);
}

std::vector<std::string> backends() {
  if (may_skip()) return {"mpi_cuda", "nccl"};
  return {"mpi_cpu"};
}

class Conformance : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto& runtime = test_runtime();
    rank_ = runtime.rank();
    size_ = runtime.size();
    comm_ = runtime.world();
    if (GetParam() == "mpi_cpu") return;
    const int64_t fewest = -comm_->max_on_host(-cuda::device_count());
    const bool nccl = GetParam() == "nccl";
    if (nccl && fewest < runtime.local_size()) GTEST_SKIP() << "NCCL needs a GPU for every rank";
    device_ = test_device();
    if (nccl) comm_ = make_nccl_communicator(comm_, device_, /*limit_s=*/20, /*even_alone=*/true);
  }

  at::Tensor own(int64_t count, at::ScalarType type) const {
    return values(rank_, count, type).to(device_);
  }

  CommPtr comm_;
  at::Device device_{at::kCPU};
  int rank_ = 0, size_ = 1;
};

INSTANTIATE_TEST_SUITE_P(Backends, Conformance, testing::ValuesIn(backends()),
                         [](const auto& backend) { return backend.param; });

TEST_P(Conformance, KnowsItsPlace) {
  EXPECT_EQ(comm_->rank(), rank_);
  EXPECT_EQ(comm_->size(), size_);
  EXPECT_EQ(comm_->backend(), GetParam() == "nccl" ? "nccl" : "mpi");
}

TEST_P(Conformance, AllReduceGivesSumMaximumAndMinimum) {
  for (const auto type : kTypes) {
    for (const auto count : kCounts) {
      at::Tensor all = torch::empty({size_, count}, type);
      for (int r = 0; r < size_; ++r) all[r].copy_(values(r, count, type));
      at::Tensor sum = own(count, type), max = sum.clone(), min = sum.clone();
      comm_->all_reduce(sum);
      comm_->all_reduce(max, ReduceOp::kMax);
      comm_->all_reduce(min, ReduceOp::kMin);
      EXPECT_TRUE(torch::equal(sum.cpu(), all.sum(0).to(type))) << type << " x " << count;
      EXPECT_TRUE(torch::equal(max.cpu(), all.amax(0))) << type << " x " << count;
      EXPECT_TRUE(torch::equal(min.cpu(), all.amin(0))) << type << " x " << count;
    }
  }
}

TEST_P(Conformance, AllReduceGivesAllRanksTheSameBits) {
  for (const int64_t count : {5, 129, 10007, 300000}) {
    torch::manual_seed(100 + rank_);
    const at::Tensor mine =
        torch::randn({count}) * torch::pow(10.0, torch::randint(-6, 6, {count}));
    at::Tensor t = mine.to(device_).contiguous();
    comm_->all_reduce(t);
    const at::Tensor host = t.cpu();
    const auto texts = comm_->gather_text(
        {static_cast<const char*>(host.data_ptr()), static_cast<size_t>(host.nbytes())});
    for (int r = 0; r < size_; ++r) {
      EXPECT_TRUE(texts[static_cast<size_t>(r)] == texts[0]) << "rank " << r << " has other bits";
    }
  }
}

TEST_P(Conformance, AWaitEndsWhenTheDeviceIsDone) {
  at::Tensor t = own(70001, at::kFloat);
  DeviceMark mark(device_);
  for (int i = 0; i < 20; ++i) comm_->all_reduce(t, ReduceOp::kMax);
  mark.set();
  comm_->wait(mark);
  EXPECT_TRUE(mark.passed());
  const auto part = comm_->split(rank_ % 2, rank_);
  part->all_reduce(t, ReduceOp::kMax);
  comm_->wait(device_);  // of what is under way in its parts too
  part->wait(device_);
}

TEST_P(Conformance, AllGatherKeepsRankOrderAndShape) {
  for (const auto type : kTypes) {
    for (const auto count : kCounts) {
      const at::Tensor t = own(count * 2, type).view({count, 2});
      at::Tensor out = torch::zeros({size_, count, 2}, t.options());
      comm_->all_gather(t, out);
      for (int r = 0; r < size_; ++r) {
        const at::Tensor expected = values(r, count * 2, type).view({count, 2});
        EXPECT_TRUE(torch::equal(out[r].cpu(), expected)) << type << " x " << count << " of " << r;
      }
    }
  }
}

TEST_P(Conformance, AllToAllTransposesTheBlocks) {
  for (const auto type : kTypes) {
    for (const auto count : kCounts) {
      at::Tensor t = torch::empty({size_, count}, at::device(device_).dtype(type));
      at::Tensor expected = torch::empty({size_, count}, type);
      for (int r = 0; r < size_; ++r) {
        t[r].copy_(values(rank_ * size_ + r, count, type));
        expected[r].copy_(values(r * size_ + rank_, count, type));
      }
      const at::Tensor before = t.clone();
      at::Tensor out = torch::zeros({size_ * count}, t.options());  // any shape of as many elements
      comm_->all_to_all(t, out);
      EXPECT_TRUE(torch::equal(out.cpu().view_as(expected), expected)) << type << " x " << count;
      EXPECT_TRUE(torch::equal(t, before)) << type << " x " << count;
    }
  }
}

TEST_P(Conformance, BroadcastTakesEveryRoot) {
  for (int root = 0; root < size_; ++root) {
    for (const auto type : kTypes) {
      for (const auto count : kCounts) {
        at::Tensor t = own(count, type);
        comm_->broadcast(t, root);
        EXPECT_TRUE(torch::equal(t.cpu(), values(root, count, type))) << type << " x " << count;
      }
    }
  }
}

TEST_P(Conformance, WorksInsideALargerTensor) {  // as gradients in the flat tensor
  at::Tensor flat = torch::zeros({10}, at::TensorOptions(at::kDouble).device(device_));
  at::Tensor middle = flat.narrow(0, 3, 4);
  middle.fill_(rank_ + 1);
  comm_->all_reduce(middle);
  const double sum = size_ * (size_ + 1) / 2.0;
  const at::Tensor expected = torch::zeros({10}, at::kDouble);
  expected.narrow(0, 3, 4).fill_(sum);
  EXPECT_TRUE(torch::equal(flat.cpu(), expected));
}

TEST_P(Conformance, BarrierHoldsUntilAllHaveCome) {
  const auto now_ns = [] { return std::chrono::steady_clock::now().time_since_epoch().count(); };
  std::this_thread::sleep_for(std::chrono::milliseconds(40 * rank_));
  const int64_t came = now_ns();
  comm_->barrier();
  const int64_t left = now_ns();
  EXPECT_GE(left, comm_->max_on_host(came));
}

TEST_P(Conformance, SplitOrdersByKeyAndLeavesOut) {
  const CommPtr reversed = comm_->split(0, -rank_);
  ASSERT_NE(reversed, nullptr);
  EXPECT_EQ(reversed->backend(), comm_->backend());
  EXPECT_EQ(reversed->size(), size_);
  EXPECT_EQ(reversed->rank(), size_ - 1 - rank_);
  at::Tensor t = own(5, at::kInt);
  reversed->broadcast(t, 0);
  EXPECT_TRUE(torch::equal(t.cpu(), values(size_ - 1, 5, at::kInt)));

  const CommPtr without_last = comm_->split(rank_ == size_ - 1 ? -1 : 3, rank_);
  EXPECT_EQ(without_last == nullptr, rank_ == size_ - 1);
  if (without_last) {
    EXPECT_EQ(without_last->size(), size_ - 1);
    at::Tensor ones = torch::ones({3}, at::TensorOptions(at::kFloat).device(device_));
    without_last->all_reduce(ones);
    EXPECT_TRUE(torch::equal(ones.cpu(), torch::full({3}, size_ - 1, at::kFloat)));
  }
}

TEST_P(Conformance, SplitPartsDoNotMix) {
  const CommPtr parity = comm_->split(rank_ % 2, rank_);
  ASSERT_NE(parity, nullptr);
  const int members = rank_ % 2 == 0 ? (size_ + 1) / 2 : size_ / 2;
  EXPECT_EQ(parity->size(), members);
  at::Tensor part = torch::full({4}, rank_, at::TensorOptions(at::kLong).device(device_));
  at::Tensor whole = part.clone();
  parity->all_reduce(part);
  comm_->all_reduce(whole);
  int64_t of_part = 0, of_whole = 0;
  for (int r = 0; r < size_; ++r) {
    of_whole += r;
    of_part += r % 2 == rank_ % 2 ? r : 0;
  }
  EXPECT_TRUE(torch::equal(part.cpu(), torch::full({4}, of_part, at::kLong)));
  EXPECT_TRUE(torch::equal(whole.cpu(), torch::full({4}, of_whole, at::kLong)));
  const CommPtr alone = parity->split(parity->rank(), 0);
  EXPECT_EQ(alone->size(), 1);
  at::Tensor t = own(9, at::kFloat), out = torch::zeros({1, 9}, t.options());
  alone->all_reduce(t);
  alone->all_gather(t, out);
  EXPECT_TRUE(torch::equal(out[0].cpu(), values(rank_, 9, at::kFloat)));
}

TEST_P(Conformance, RefusesWhatItCannotMove) {
  const auto options = at::TensorOptions(at::kFloat).device(device_);
  at::Tensor flags = torch::zeros({2}, options.dtype(at::kBool));
  at::Tensor strided = torch::zeros({4, 4}, options).t().narrow(0, 0, 2);
  at::Tensor t = torch::zeros({4}, options), short_out = torch::zeros({size_, 3}, options);
  at::Tensor other_type = torch::zeros({size_, 4}, options.dtype(at::kDouble));
  EXPECT_THROW(comm_->all_reduce(flags), Error);
  EXPECT_THROW(comm_->all_reduce(strided), Error);
  EXPECT_THROW(comm_->all_gather(t, short_out), Error);
  EXPECT_THROW(comm_->all_gather(t, other_type), Error);
  at::Tensor blocks = torch::zeros({size_, 4}, options);
  at::Tensor uneven = torch::zeros({4 * size_ + 1}, options), uneven_out = uneven.clone();
  EXPECT_THROW(comm_->all_to_all(blocks, short_out), Error);
  EXPECT_THROW(comm_->all_to_all(blocks, other_type), Error);
  EXPECT_THROW(comm_->all_to_all(strided, blocks), Error);
  EXPECT_THROW(comm_->broadcast(t, size_), Error);
  EXPECT_THROW(comm_->broadcast(t, -1), Error);
  if (size_ == 1) return;  // to one rank any number goes
  EXPECT_THROW(comm_->all_to_all(uneven, uneven_out), Error);
}

TEST_P(Conformance, LargestOnHost) {
  EXPECT_EQ(comm_->max_on_host(rank_ == size_ / 2 ? int64_t{1} << 40 : -rank_), int64_t{1} << 40);
  EXPECT_EQ(comm_->max_on_host(-5 - rank_), -5);
}

TEST_P(Conformance, GathersTextsOfAnyLengthAndByte) {
  const auto text = [](int r) {
    return std::string(static_cast<size_t>(r * r * 40), static_cast<char>('a' + r)) +
           std::string("\0\n", 2) + std::to_string(r);
  };
  const auto texts = comm_->gather_text(text(rank_));
  ASSERT_EQ(texts.size(), static_cast<size_t>(size_));
  for (int r = 0; r < size_; ++r) EXPECT_EQ(texts[static_cast<size_t>(r)], text(r));
  for (const auto& none : comm_->gather_text("")) EXPECT_EQ(none, "");
  const auto one = comm_->gather_text(rank_ == size_ - 1 ? std::string("\0x", 2) : "");
  for (int r = 0; r < size_; ++r) {
    EXPECT_EQ(one[static_cast<size_t>(r)].size(), r == size_ - 1 ? 2u : 0u);
  }
}

TEST(MpiCommunicator, RefusesMoreElementsThanOneCallMoves) {
  float one = 0;
  const int64_t too_many = (int64_t{1} << 32) + 1;  // 1, if it were cut to an int
  at::Tensor huge = at::from_blob(&one, {too_many}, at::kFloat);
  auto& world = *test_runtime().world();
  if (world.size() == 1) {
    world.all_reduce(huge);  // a single rank moves nothing
  } else {
    EXPECT_THROW(world.all_reduce(huge), Error);
    EXPECT_THROW(world.broadcast(huge), Error);
  }
}

/// What `agree` makes of `phase`: its exit code and message, or 0.
std::pair<int, std::string> agreed(const std::function<void()>& phase) {
  try {
    agree(*test_runtime().world(), {"an agreement"}, phase);
  } catch (const UsageError& error) {
    return {static_cast<int>(error.code()), error.what()};
  }
  return {0, ""};
}

TEST(Agree, PassesWhenAllPass) {
  int runs = 0;
  EXPECT_EQ(agreed([&] { ++runs; }).first, 0);
  EXPECT_EQ(runs, 1);
}

TEST(Agree, OneFailingRankFailsAllWithItsMessageAndCode) {
  const int size = test_runtime().size(), last = size - 1;
  const auto [code, message] = agreed([&] {
    if (test_runtime().rank() == last) throw Error("5 bytes missing", ExitCode::kInputDamaged);
  });
  EXPECT_EQ(code, 65);
  EXPECT_EQ(message,
            size == 1 ? "5 bytes missing" : concat("[rank ", last, "/", size, "] 5 bytes missing"));
}

TEST(Agree, TheLowestFailingRankIsHeard) {
  const auto [code, message] = agreed([] {
    throw Error(concat("from ", test_runtime().rank()),
                test_runtime().rank() == 0 ? ExitCode::kWriteFailed : ExitCode::kSystem);
  });
  EXPECT_EQ(code, 74);
  const int size = test_runtime().size();
  EXPECT_EQ(message, size == 1 ? "from 0" : concat("[rank 0/", size, "] from 0"));
}

TEST(Agree, WhatAllSayIsSaidOnce) {
  const auto [code, message] =
      agreed([] { throw UsageError("no such file\nlooked here", ExitCode::kInputMissing); });
  EXPECT_EQ(code, 66);
  EXPECT_EQ(message, "no such file\nlooked here");
}

TEST(Agree, ForeignExceptionsCount) {
  EXPECT_EQ(agreed([] { throw std::bad_alloc(); }).first, 71);
  EXPECT_EQ(agreed([] { TORCH_CHECK(false, "shapes"); }),
            std::make_pair(70, std::string("shapes")));
  EXPECT_EQ(agreed([] { throw 1; }).first, 70);
}

TEST(AgreeSame, NamesTheRankAndTheLine) {
  auto& world = *test_runtime().world();
  EXPECT_NO_THROW(agree_same(world, "seed = 1\nbatch = 2\n", "the options"));
  const bool odd = world.rank() % 2 == 1;
  const std::string text = odd ? "seed = 1\nbatch = 4\n" : "seed = 1\nbatch = 2\n";
  if (world.size() == 1) {
    EXPECT_NO_THROW(agree_same(world, text, "the options"));
    return;
  }
  try {
    agree_same(world, text, "the options");
    ADD_FAILURE() << "no disagreement found";
  } catch (const UsageError& error) {
    EXPECT_EQ(error.code(), ExitCode::kDisagree);
    EXPECT_EQ(
        error.what(),
        concat("The ranks disagree about the options: rank ", world.size() == 4 ? "1, 3" : "1",
               " differs from rank 0; rank 0 has 'batch = 2', rank 1 has 'batch = 4'."));
  }
}

TEST(AgreeSame, SeesAMissingLine) {
  auto& world = *test_runtime().world();
  if (world.size() == 1) return;
  EXPECT_THROW(agree_same(world, world.rank() == 1 ? "a\n" : "a\nb\n", "the options"), UsageError);
  EXPECT_THROW(agree_same(world, world.rank() == 1 ? "a" : "a\n", "the options"), UsageError);
}

TEST(RuntimeFacts, SharedBytesAreOneZeroedCopyPerNode) {
  auto& runtime = test_runtime();
  constexpr size_t kBytes = 100000;
  for (int round = 0; round < 3; ++round) {  // also: given back and taken again
    const auto first = runtime.node_shared_bytes(kBytes);
    const auto second = runtime.node_shared_bytes(kBytes);
    EXPECT_TRUE(std::all_of(first.get(), first.get() + kBytes, [](uint8_t b) { return b == 0; }));
    runtime.node_barrier();
    if (runtime.local_rank() == 0) std::fill_n(first.get(), kBytes, uint8_t{7});
    runtime.node_barrier();
    EXPECT_EQ(std::count(first.get(), first.get() + kBytes, 7), ptrdiff_t{kBytes});
    EXPECT_EQ(std::count(second.get(), second.get() + kBytes, 0), ptrdiff_t{kBytes});
    runtime.node_barrier();
    const int last = runtime.local_size() - 1;  // any rank's writes reach the others
    if (runtime.local_rank() == last) second.get()[kBytes - 1] = 42;
    runtime.node_barrier();
    EXPECT_EQ(second.get()[kBytes - 1], 42);
    const auto none = runtime.node_shared_bytes(0);
  }
}

TEST(RuntimeFacts, PlaceAndState) {
  auto& runtime = test_runtime();
  EXPECT_EQ(runtime.local_size(), runtime.size());  // tests run on one node
  EXPECT_EQ(runtime.local_rank(), runtime.rank());
  EXPECT_FALSE(runtime.host().empty());
  EXPECT_FALSE(c10::AutogradState::get_tls_state().get_multithreading_enabled());
  EXPECT_NE(Runtime::mpi_version(), "");
  EXPECT_EQ(Runtime::mpi_version().find('\n'), std::string::npos);
}

TEST(RuntimeFacts, PlacementAndThreadsAreTheSamePlanOnAllRanks) {
  auto& runtime = test_runtime();
  const Placement placement = choose_placement(runtime, "cpu", "auto");
  EXPECT_TRUE(placement.device.is_cpu());
  ASSERT_EQ(placement.rank_devices.size(), static_cast<size_t>(runtime.size()));
  EXPECT_EQ(placement.rank_devices[0], runtime.host() + ": cpu");
  EXPECT_EQ(make_communicator(runtime, placement, 0)->size(), runtime.size());
  EXPECT_THROW(choose_placement(runtime, "cpu", "nccl"), UsageError);

  const int before = at::get_num_threads();
  const ThreadPlan plan = plan_threads(runtime, 2);
  EXPECT_EQ(plan.threads, 2);
  EXPECT_EQ(at::get_num_threads(), 2);
  EXPECT_GE(plan.bound_cores, 1);
  std::string warnings;
  for (const auto& line : plan.warnings) warnings += line + "\n";
  EXPECT_NO_THROW(agree_same(*runtime.world(), warnings, "the warnings"));
  at::set_num_threads(before);
}

}  // namespace
}  // namespace syncbn
