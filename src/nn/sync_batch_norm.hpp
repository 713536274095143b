// SyncBatchNorm: the same kernels as a torch::nn module with an autograd function, for anyone's own
// LibTorch model. It is torch.nn.SyncBatchNorm for CPU and CUDA tensors.
//
//   auto norm = syncbn::SyncBatchNorm(torch::nn::BatchNormOptions(64), communicator);
//   torch::Tensor y = norm->forward(x);       // x, y: (n, 64) or (n, 64, …), float32 or float64
//
// In training the statistics are those of the samples of all ranks of the communicator: n may
// differ by rank and be 0. Forward is then collective (one all_gather of 2C+1 numbers), and so is
// its backward (one all_reduce of 2C): every rank calls both, in the same order. By running
// statistics (evaluation) nothing is communicated. The input's gradient is that of the *sum* over
// ranks of the ranks' losses; γ and β get this rank's part of their gradient, to be summed over
// ranks with all other gradients.
//
// Normalises with the biased variance; running_var takes the unbiased one with the count of all
// ranks. Parameters, buffers and options are those of torch::nn::BatchNorm1d (momentum nullopt:
// cumulative average), so state dicts are interchangeable.
//
// Errors: fewer than two samples over all ranks throw Error on CPU where batch statistics are used,
// on every rank; on CUDA, where looking would wait for the device, running_var becomes NaN.
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/options/batchnorm.h>

#include "comm/communicator.hpp"

namespace syncbn {

class SyncBatchNormImpl
    : public torch::nn::NormImplBase<1, SyncBatchNormImpl, torch::nn::BatchNormOptions> {
 public:
  SyncBatchNormImpl(const torch::nn::BatchNormOptions& settings, CommPtr comm);

  torch::Tensor forward(const torch::Tensor& x);
  void pretty_print(std::ostream& stream) const override;

 private:
  void _check_input_dim(const torch::Tensor& x) override;
  void update_running(const torch::Tensor& stats);

  CommPtr comm_;
};
TORCH_MODULE(SyncBatchNorm);

}  // namespace syncbn
