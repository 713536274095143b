// The exchange between the passes of batch norm: what each piece of a statistics group holds
// becomes the total of the whole group. The only place where normalization talks to other ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "nn/stats_groups.hpp"

namespace syncbn {

/// How two rows become one.
enum class Fold {
  kAdd,     ///< element by element
  kMoments  ///< count, mean (C), m2 (C) of the union (merge_moments in nn/norm_kernels.hpp)
};

/// A table of one row per piece of this rank, and its exchange. Made once per use; buffers are made
/// when the groups change (another batch size), not in steady state.
///
/// Rows are folded in the order of the tree over the pieces of each group, whoever holds them, so
/// the totals have the same bits on every rank and for any number of ranks. Collective over
/// groups.comm: one all_gather of (slots, width) per run, which does no arithmetic; a rank without
/// rows takes part. With slots = 0 nothing is sent.
class TreeExchange {
 public:
  TreeExchange(int64_t width, Fold fold, at::Device device)
      : width_(width), fold_(fold), device_(device) {}

  /// Makes the buffers fit `groups`, whose address tells whether they changed; says if they did.
  bool prepare(const StatsGroups& groups);
  /// (P, width) float64: a row per piece, the piece's own in, the whole group's out.
  at::Tensor& table() { return table_; }
  void run(const Purpose& purpose);
  /// Of this rank in each run(); none where no group spans ranks.
  Traffic traffic() const;

 private:
  int64_t fold_rows(const TreeSum& sum, at::Tensor& rows) const;

  int64_t width_;
  Fold fold_;
  at::Device device_;
  const StatsGroups* groups_ = nullptr;
  at::Tensor table_;
  at::Tensor slots_, gathered_;  // (slots, width), (ranks · slots, width)
};

}  // namespace syncbn
