// Virtual shards: how a global batch is cut into V parts, and how the parts lie on the ranks.
//
// A batch of b samples is cut into V shards by share_of(b, v, V); shards may be empty. Rank r of R
// holds the shards share_of(V, r, R), and so a run of neighbouring rows. Every number that is a sum
// over the samples of a batch is summed within each shard first and then over shards by the tree of
// base/tree.hpp. So what is computed depends on (b, V), never on R:
//
//   run.reduce = canonical   V = run.shards, on any number of ranks up to V
//   run.reduce = fast        V = R: one shard per rank; the gradient's sum is left to the
//                            communicator, and all but rounding is the same
#pragma once

#include <vector>

#include "base/tree.hpp"

namespace syncbn {

struct Sharding {
  int64_t shards = 1;  ///< V
  int rank = 0, ranks = 1;
  bool canonical = false;  ///< every sum in the tree's order, at any cost

  /// Which shards rank r holds.
  Range of_rank(int r) const { return share_of(shards, r, ranks); }
  Range mine() const { return of_rank(rank); }
  /// Rows of rank r, of a batch of b samples.
  Range rows_of_rank(int64_t batch, int r) const {
    const Range held = of_rank(r);
    return {first_row(batch, held.begin), first_row(batch, held.end)};
  }
  Range rows(int64_t batch) const { return rows_of_rank(batch, rank); }
  /// The most rows of any rank, of a batch of b samples.
  int64_t most_rows(int64_t batch) const;
  /// Row of the batch with which shard v begins; b for v = V.
  int64_t first_row(int64_t batch, int64_t shard) const {
    return share_of(batch, shard, shards).begin;
  }
  /// The rows of each of this rank's shards, counted within this rank's rows.
  std::vector<Range> shard_rows(int64_t batch) const;
  /// How the shards of a node add up; parts are counted from this rank's first shard.
  TreeSum sum_of(Range node) const;
  /// The same for each of this rank's nodes of the tree over all shards.
  std::vector<TreeSum> node_sums() const;
  /// The most nodes of any rank.
  int64_t most_nodes() const;
};

}  // namespace syncbn
