// Synchronized batch norm in a model of one's own: mpirun -n 2 ./example
#include <torch/torch.h>

#include <cstdio>

#include "comm/reduce_gradients.hpp"
#include "comm/runtime.hpp"
#include "nn/sync_batch_norm.hpp"

int train(syncbn::Runtime& runtime) {
  const syncbn::CommPtr& world = runtime.world();
  torch::manual_seed(1);  // the same initial weights on every rank
  torch::nn::Sequential model(torch::nn::Linear(8, 16),
                              syncbn::SyncBatchNorm(torch::nn::BatchNormOptions(16), world),
                              torch::nn::ReLU(), torch::nn::Linear(16, 1));
  torch::optim::Adam optimizer(model->parameters(), 0.01);
  torch::manual_seed(100 + runtime.rank());  // samples of its own on each rank, 64 in all
  const auto x = torch::randn({64 / runtime.size(), 8}), y = x.square().sum(1, true);
  for (int step = 0; step < 200; ++step) {
    optimizer.zero_grad();
    auto loss = (model->forward(x) - y).square().sum() / 64;  // this rank's part of the mean
    loss.backward();
    syncbn::reduce_gradients(model->parameters(), world);  // a plain sum over the ranks
    optimizer.step();
    auto total = loss.detach();
    world->all_reduce(total);
    if (runtime.rank() == 0 && step % 50 == 49) std::printf("loss %.4f\n", total.item<double>());
  }
  return 0;
}

int main(int argc, char** argv) {
  return syncbn::guarded_main(argc, argv, train);
}
