// SyncBatchNorm: batch norm over the samples of all ranks, as a torch::nn module for anyone's own
// LibTorch model. It is torch.nn.SyncBatchNorm for CPU and CUDA tensors, and takes the place of
// torch::nn::BatchNorm1d, 2d and 3d (docs/sync_batch_norm.md).
//
//   auto norm = syncbn::SyncBatchNorm(torch::nn::BatchNormOptions(64), communicator);
//   torch::Tensor y = norm->forward(x);       // x, y: (n, 64) or (n, 64, …)
//
// In training the statistics are those of the samples of all ranks of the communicator: n may
// differ by rank and be 0. Forward is then collective (one all_gather of 2C+1 numbers), and so is
// its backward: every rank calls both, in the same order. By running statistics (evaluation)
// nothing is communicated. The input's gradient is that of the *sum* over ranks of the ranks'
// losses; γ and β get this rank's part of their gradient, to be summed over ranks with all other
// gradients (comm/reduce_gradients.hpp). Gradients of gradients (create_graph) are right to any
// order, by the same convention.
//
// Layout and dtype are those of torch::nn::BatchNorm: y and x's gradient are dense, channels-last
// where x is and contiguous otherwise. x is float32, float64, float16 or bfloat16; parameters and
// buffers have x's dtype, or are float32 beside float16 and bfloat16. Statistics are float64.
//
// Normalises with the biased variance; running_var takes the unbiased one with the count of all
// ranks. Parameters, buffers and options are those of torch::nn::BatchNorm1d (momentum nullopt:
// cumulative average), so state dicts are interchangeable. When no rank has a sample, the output is
// empty and the running statistics stay.
//
// Errors, as Error: no communicator or no features, when it is made; an input of other shape or
// dtype, on the rank that has it; one sample over all ranks where batch statistics are used,
// on every rank (UsageError), on CPU. On CUDA, where looking would wait for the device, running_var
// becomes NaN then.
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

  /// The number of dimensions of the last input, 0 before the first. It tells
  /// revert_sync_batchnorm (nn/convert_sync_batch_norm.hpp) which BatchNorm this one replaces.
  int64_t input_dims() const { return input_dims_; }
  void set_input_dims(int64_t dims) { input_dims_ = dims; }

 private:
  void _check_input_dim(const torch::Tensor& x) override;
  void check_dtypes(at::ScalarType input) const;
  void update_running(const torch::Tensor& stats);

  CommPtr comm_;
  int64_t input_dims_ = 0;
};
TORCH_MODULE(SyncBatchNorm);

}  // namespace syncbn
