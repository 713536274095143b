// A program that initialises and finalises MPI itself: `own_mpi_probe WAY`, run by runtime_test.
#include <mpi.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <thread>

#include "comm/own_mpi.hpp"
#include "comm/runtime.hpp"
#include "nn/sync_batch_norm.hpp"

namespace {

using syncbn::CommPtr;

constexpr int64_t kSamples = 12, kFeatures = 5;

/// Trains on this rank's share of the same samples whatever the number of ranks; the last loss.
double train(const CommPtr& comm) {
  torch::manual_seed(1);
  const auto options = torch::TensorOptions(torch::kDouble);
  const auto all = torch::randn({kSamples, kFeatures}, options);
  torch::nn::Sequential model(torch::nn::Linear(kFeatures, 4),
                              syncbn::SyncBatchNorm(torch::nn::BatchNormOptions(4), comm),
                              torch::nn::Tanh(), torch::nn::Linear(4, 1));
  model->to(torch::kDouble);
  torch::optim::SGD optimizer(model->parameters(), 0.1);
  const int64_t first = comm->rank() * kSamples / comm->size();
  const int64_t last = (comm->rank() + 1) * kSamples / comm->size();
  const auto x = all.slice(0, first, last), y = x.square().sum(1, true);
  double shown = 0;
  for (int step = 0; step < 20; ++step) {
    optimizer.zero_grad();
    auto loss = (model->forward(x) - y).square().sum() / kSamples;
    loss.backward();
    for (auto& p : model->parameters()) comm->all_reduce(p.mutable_grad());
    optimizer.step();
    auto total = loss.detach().clone();
    comm->all_reduce(total);
    shown = total.item<double>();
  }
  return shown;
}

int ranks_of(MPI_Comm comm) {
  int size = 0;
  MPI_Comm_size(comm, &size);
  return size;
}

bool throws(const std::function<void()>& act) {
  try {
    act();
  } catch (const syncbn::Error&) {
    return true;
  }
  return false;
}

/// Calls from another thread than MPI_Init's, and errors that a communicator of the caller's own
/// would end the job with.
bool refuses(const CommPtr& comm) {
  bool refused = false;
  std::thread([&] { refused = throws([&] { comm->barrier(); }); }).join();
  at::Tensor t = at::zeros({2}, at::kFloat);
  return refused && throws([&] { comm->broadcast(t, comm->size()); });
}

/// Code 0: all that this way should show was seen.
int probe(const std::string& way) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const bool last = rank + 1 == ranks_of(MPI_COMM_WORLD);
  // A part of the job trains, all but the last of three ranks or more.
  MPI_Comm part = MPI_COMM_NULL;
  const bool left_out = last && ranks_of(MPI_COMM_WORLD) > 2;
  MPI_Comm_split(MPI_COMM_WORLD, left_out ? 1 : 0, rank, &part);
  if (rank == 0) std::puts("ready");
  std::fflush(stdout);
  {
    const CommPtr comm = syncbn::make_communicator(part, /*wait_limit=*/2);
    MPI_Comm_free(&part);  // it was duplicated
    if (way == "wrong") return refuses(comm) ? 0 : 1;
    if (way == "stuck" && last) sleep(60);
    const double loss = train(comm);
    if (rank == 0) std::printf("ranks %d loss %.7f\n", comm->size(), loss);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string way = argc == 2 ? argv[1] : "train";
  const auto make = [] { syncbn::make_communicator(MPI_COMM_WORLD); };
  if (way == "wrong" && !throws(make)) return 4;
  MPI_Init(&argc, &argv);
  int code = 0;
  if (way == "guarded") {  // the whole program, in the hands of one that has MPI already
    code = syncbn::guarded_main(argc, argv, [](syncbn::Runtime& runtime) {
      const double loss = train(runtime.world());
      if (runtime.rank() == 0) std::printf("ranks %d loss %.7f\n", runtime.size(), loss);
      return 0;
    });
  } else {
    code = probe(way);
  }
  int down = 0, one = 1;
  MPI_Finalized(&down);
  if (down != 0) return 2;
  MPI_Allreduce(MPI_IN_PLACE, &one, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);  // MPI still works
  if (one != ranks_of(MPI_COMM_WORLD)) return 3;
  MPI_Finalize();
  if (way == "wrong" && !throws(make)) return 5;
  return code;
}
