// The replica: one rank's copy of the model as flat tensors, and the one sum of a step.
//
// All parameters are views of one tensor, in layer order. Everything that is summed over the batch
// lies in another in the same order: the gradients, behind them the norm layers' reduced numbers,
// the loss, and requests (below). A rank has one such row per node of the tree within its shards;
// comm/tree_all_reduce.hpp adds them all up into the first:
//
//   parameters   [ 0.weight | 0.bias | 1.weight | … ]                                         (N)
//   row of sums  [ gradients of the same            | reduced of each norm | loss | requests ]
//
// The loss carries 1/B with the global B, so the gradient of the batch is the plain sum over
// shards, whatever their sizes. Nothing is averaged.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/tree_all_reduce.hpp"
#include "nn/network.hpp"

namespace syncbn {

/// What a rank may ask of all ranks in a step; all learn of it in the same step.
enum class Request { kSave, kStop };

class Replica {
 public:
  /// Binds the network's layers to fresh flat tensors and sets the initial weights, which every
  /// rank computes alike. The network must outlive the replica.
  Replica(Network& network, const Sharding& sharding, at::ScalarType dtype, at::Device device,
          CommPtr comm);

  at::Tensor& parameters() { return parameters_; }  ///< (N)
  at::Tensor& gradients() { return gradients_; }    ///< (N), of the batch after reduce()

  /// Collective. Sums gradients, norm statistics and the loss over all shards, then updates the
  /// running statistics. totals (shards, 2): the loss of each of this rank's shards first.
  void reduce(const at::Tensor& totals);
  /// Collective. The sum alone: running statistics stay, and requests wait for the next reduce().
  void sum(const at::Tensor& totals);
  /// Of this rank in each reduce().
  Traffic traffic() const { return sums_->traffic(); }
  /// Asks all ranks, by the next reduce(); any number of ranks may ask.
  void request(Request what);
  /// Whether any rank has asked for it by the last reduce(); the same answer on every rank. Waits
  /// for the device.
  bool requested(Request what) const;
  /// The summed loss of the batch after reduce(); waits for the device. Not finite: the run has
  /// diverged, and all ranks see it.
  double reduced_loss() const;
  const at::Tensor& loss() const { return loss_; }  ///< (1), the same on the device

  /// Every parameter and buffer under its PyTorch state_dict name ("0.weight", "1.running_mean");
  /// the tensors share memory with the model.
  std::vector<std::pair<std::string, at::Tensor>> state_dict() const;

  /// Which parameters() are weights of a product: the matrices, not the biases and what a norm
  /// layer learns. In increasing order.
  const std::vector<Range>& weights() const { return weights_; }

  /// SHA-256 of the bytes of every entry of state_dict(), one after the other, as hexadecimal
  /// digits.
  std::string digests() const;

  /// Collective. Throws UsageError(kInvariant), naming the first tensor that differs and the ranks
  /// that hold each version of it, unless all ranks hold the same bits of every entry of
  /// state_dict() and of `others` (by SHA-256).
  void check_equal(const std::vector<std::pair<std::string, at::Tensor>>& others = {}) const;

 private:
  // A place per row of sums, `shape` from `offset` on.
  std::vector<at::Tensor> places(int64_t offset, const std::vector<int64_t>& shape);

  Network& network_;
  CommPtr comm_;
  at::Tensor parameters_;
  std::vector<TreeSum> node_sums_;
  std::optional<TreeAllReduce> sums_;
  at::Tensor gradients_, loss_, requests_;  // views of the first row
  std::vector<at::Tensor> losses_;          // one per row
  at::Tensor loss_parts_;                   // (shards, 1)
  at::Tensor requested_;                    // (2), CPU: to be asked by the next reduce()
  std::vector<std::pair<std::string, at::Tensor>> named_parameters_;
  std::vector<Range> weights_;
};

}  // namespace syncbn
