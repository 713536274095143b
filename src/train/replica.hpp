// The replica: one rank's copy of the model as flat tensors, and the one all-reduce of a step.
//
// All parameters are views of one tensor, in layer order; all gradients are views of another,
// behind which lie the norm layers' reduced numbers and the loss:
//
//   parameters   [ 0.weight | 0.bias | 1.weight | … ]                                  (N)
//   sums         [ gradients of the same            | reduced of each norm | loss ]    (N + K + 1)
//
// The loss carries 1/B with the global B, so the gradient of the batch is the plain sum over ranks,
// whatever their shares. Nothing is averaged.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.hpp"
#include "nn/network.hpp"

namespace syncbn {

class Replica {
 public:
  /// Binds the network's layers to fresh flat tensors and sets the initial weights, which every
  /// rank computes alike. The network must outlive the replica.
  Replica(Network& network, at::ScalarType dtype, at::Device device, CommPtr comm);

  at::Tensor& parameters() { return parameters_; }  ///< (N)
  at::Tensor& gradients() { return gradients_; }    ///< (N), of the batch after reduce()

  /// Collective: one all_reduce. Sums gradients, norm statistics and `loss` (1 element: the sum of
  /// this rank's sample losses) over the ranks, then updates the running statistics.
  void reduce(const at::Tensor& loss);
  /// The summed loss of the batch after reduce(); waits for the device. Not finite: the run has
  /// diverged, and all ranks see it.
  double reduced_loss() const;

  /// Every parameter and buffer under its PyTorch state_dict name ("0.weight", "1.running_mean");
  /// the tensors share memory with the model.
  std::vector<std::pair<std::string, at::Tensor>> state_dict() const;

  /// Collective. Throws UsageError(kInvariant), naming ranks and tensors, unless all ranks hold the
  /// same bits of every entry of state_dict().
  void check_equal() const;

 private:
  Network& network_;
  CommPtr comm_;
  at::Tensor parameters_, sums_, gradients_, loss_;
  std::vector<std::pair<std::string, at::Tensor>> named_parameters_;
};

}  // namespace syncbn
