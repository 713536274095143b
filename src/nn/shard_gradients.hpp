// Gradients that are sums over samples: within each shard row after row, over shards by the tree.
//
// A rank writes one result per node of the tree that lies within its shards (base/sharding.hpp);
// train/replica.hpp adds up the nodes of all ranks. `nodes` below are those places, in the order of
// Sharding::node_sums(); a rank with no shards has none. Every sum has the same bits whatever the
// rank holds besides, and whatever the number of threads.
//
//   x (n, in), dy (n, out)   contiguous, float32 or float64
//   rows                     of each of this rank's shards, in order; may be empty
//
// On CPU nothing is allocated. On CUDA each shard is a product of its own, in its own shape.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "base/sharding.hpp"

namespace syncbn {

/// nodes[k] (out, in) ← Σ over the rows of node k of dyᵀ x.
class WeightGradient {
 public:
  explicit WeightGradient(const Sharding& sharding) : sharding_(sharding) {}
  /// `rows`: its address tells whether the shards changed.
  void operator()(const at::Tensor& dy, const at::Tensor& x, const std::vector<Range>& rows,
                  std::vector<at::Tensor>& nodes);

 private:
  // A node is computed in units, each by one pass over its rows; the tree then adds the units up.
  struct Node {
    std::vector<TreeSum> units;  // over shards
    std::vector<int> merges;     // after each unit
  };
  void prepare(const std::vector<Range>& rows, bool cpu);

  Sharding sharding_;
  const std::vector<Range>* rows_ = nullptr;
  std::vector<Node> nodes_;
  std::vector<at::Tensor> scratch_;  // (out, in) each: the tree's stack above its first place
};

/// parts[s] (C) ← Σ over rows[s] of dy, in float64, rounded once. parts: (shards, C).
void column_sums(const at::Tensor& dy, const std::vector<Range>& rows, at::Tensor& parts);

/// nodes[k] (C) ← Σ over the shards of node k of parts. parts (shards, C) are overwritten.
void sum_shards(const std::vector<TreeSum>& sums, at::Tensor& parts,
                std::vector<at::Tensor>& nodes);

}  // namespace syncbn
