// Statistics groups: which samples share one mean and variance, independent of how ranks share
// them, and in which order their sums are taken.
//
// A global batch of b samples is cut twice: into shards (base/sharding.hpp) and into groups of M
// consecutive samples, whose last may be shorter.
//
//        rows   0                 M                 2M                3M   b
//      groups   |        0        |        1        |        2        | 3  |
//      shares   |       rank 0       |       rank 1       |     rank 2     |
//      shards   |    0    |    1     |    2    |    3     |   4    |   5   |
//      pieces   |    0    |  0  | 1  |    1    | 1 |   2  |   2    | 2| 3  |   (which group)
//
// A piece is the part of one group that lies in one shard. A group's moments and sums are those of
// its pieces, added up by the tree over them (base/tree.hpp): within a rank as far as that goes,
// and across ranks where the group spans several. Ranks tied together by such groups form one
// sub-communicator: all ranks when M = b (sync BN), single ranks when M divides the share (local
// and ghost BN), M/share ranks in between (group BN), and whatever the cuts demand otherwise. So M
// may be any number and R any number, and what is computed depends on (b, M, V) alone.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/sharding.hpp"
#include "comm/communicator.hpp"

namespace syncbn {

struct StatsGroups {
  struct Piece {
    Range rows;                 ///< within this rank's rows; not empty
    int64_t shard = 0;          ///< counted from this rank's first
    int64_t group_samples = 0;  ///< samples in the whole group, on all ranks
  };
  /// How the pieces of one group that this rank holds get the group's total.
  struct Total {
    TreeSum sum;            ///< over pieces; or over the rows of what is gathered, (ranks · slots)
    bool gathered = false;  ///< which of the two
    Range pieces;           ///< that get it
  };

  std::vector<Piece> pieces;   ///< this rank's rows, cut at group and shard borders, in row order
  std::vector<TreeSum> sends;  ///< over pieces: what this rank puts into its slots
  int64_t slots = 0;           ///< per rank of `comm`, the same on each; 0: nothing is sent
  std::vector<Total> totals;   ///< one per group of several pieces
  CommPtr comm;                ///< the ranks that are tied together; never null
  bool canonical = false;      ///< sums have the same bits for any number of ranks
  int64_t smallest = 0;        ///< samples in the smallest group of the whole batch
};

/// This rank's part in the groups of a batch of `batch` samples. `group_size`: M ≥ 1, or kLocal for
/// one group per shard. Not collective: color says which ranks belong together.
constexpr int64_t kLocal = 0;
struct GroupPlan {
  StatsGroups groups;  ///< comm not yet set
  int color = 0;       ///< equal for ranks that are tied together
};
GroupPlan plan_groups(int64_t batch, int64_t group_size, const Sharding& sharding);

/// The groups for each batch size that occurs (the full one, the short last one, evaluation's).
class StatsGrouping {
 public:
  StatsGrouping(CommPtr world, const Sharding& sharding, int64_t group_size)
      : world_(std::move(world)), sharding_(sharding), size_(group_size) {}
  /// Collective over the world at the first call for this batch size, then a look-up. The reference
  /// stays valid.
  const StatsGroups& of(int64_t batch);

 private:
  CommPtr world_;
  Sharding sharding_;
  int64_t size_;
  std::map<int64_t, StatsGroups> groups_;
};

/// M from `norm.batch` (global | local | a number) for a global batch of `batch` samples.
int64_t group_size(const std::string& norm_batch, int64_t batch);

}  // namespace syncbn
