// The exchange between the passes of batch norm: local moments and sums become those of the whole
// statistics group. The only place where normalization talks to other ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "nn/stats_groups.hpp"

namespace syncbn {

/// Holds the buffers of one norm layer of C features and exchanges through them. Made once per
/// layer; buffers are made when the groups change (another batch size), not in steady state.
///
/// Collective over groups.comm, one call each per step:
///   forward   one all_gather of (S, 2C+1), folded in rank order: all ranks hold the same bits
///   backward  one all_reduce of (S, 2C)
/// where S is the number of shared groups (1 unless ranks cut groups unevenly). A rank without rows
/// takes part with count 0. With S = 0 nothing is sent.
class NormExchange {
 public:
  NormExchange(int64_t features, at::Device device) : features_(features), device_(device) {}

  /// Makes the buffers fit `groups`, whose address tells whether they changed.
  void prepare(const StatsGroups& groups);

  const std::vector<Range>& rows() const { return rows_; }  ///< of the pieces
  at::Tensor& stats() { return stats_; }                    ///< (P, 2C+1) float64
  at::Tensor& sums() { return sums_; }                      ///< (P, 2C) float64

  /// stats(): this rank's moments in, the whole group's out.
  void forward();
  /// sums(): this rank's sums in, the whole group's out.
  void backward();

 private:
  void to_table(const at::Tensor& pieces, at::Tensor& table) const;
  void from_table(const at::Tensor& table, at::Tensor& pieces) const;

  int64_t features_;
  at::Device device_;
  const StatsGroups* groups_ = nullptr;
  std::vector<Range> rows_;
  at::Tensor stats_, sums_;
  at::Tensor stats_table_, gathered_, sums_table_;  // (S, 2C+1), (ranks, S, 2C+1), (S, 2C)
};

}  // namespace syncbn
