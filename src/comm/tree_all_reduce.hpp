// The sum of a vector over all shards of a batch, with the same bits on any number of ranks.
//
// Each rank hands in one vector per node of the tree that lies within its shards
// (base/sharding.hpp): one when shards are dealt out in aligned runs, a few otherwise. No
// collective does arithmetic: an all_to_all brings slice q of every node to rank q, which finishes
// the tree on it, and an all_gather brings the finished slices to all. That sends what a ring
// all-reduce sends, times the largest number of nodes of a rank. With `fast` sharding there is one
// vector per rank and the communicator's own all_reduce adds them in whatever order it likes.
#pragma once

#include <ATen/core/Tensor.h>

#include "base/sharding.hpp"
#include "comm/communicator.hpp"

namespace syncbn {

class TreeAllReduce {
 public:
  /// `width` elements of dtype (float32, float64) on the communicator's device, whose ranks are
  /// the sharding's. Fast sharding has one shard per rank.
  TreeAllReduce(CommPtr comm, const Sharding& sharding, int64_t width, at::ScalarType dtype,
                at::Device device);

  /// (K, width), K ≥ 1: rows to write, one per node of sharding.node_sums(); row 0 then holds the
  /// total. What a rank without shards has in its row does not count.
  at::Tensor& nodes() { return nodes_; }
  at::Tensor& total() { return total_; }  ///< (width), row 0 of nodes()

  /// Collective. Sums into row 0 of nodes() on every rank; the other rows are not kept. Same bits
  /// on every rank.
  void run(const Purpose& purpose = {});
  /// Of this rank in each run(); none on one rank.
  Traffic traffic() const;

 private:
  void finish_slice();

  CommPtr comm_;
  bool canonical_;
  at::Tensor padded_;  // (K, ranks · slice)
  at::Tensor nodes_, total_;
  at::Tensor received_;  // (K of any rank, ranks, slice)
  at::Tensor slice_;     // (slice) of the total
  TreeSum last_;         // over the rows of received_, (K · ranks, slice)
};

}  // namespace syncbn
