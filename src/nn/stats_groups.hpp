// Statistics groups: which samples share one mean and variance, independent of how ranks share
// them.
//
// A global batch of b samples is cut twice: into rank shares (base/range.hpp) and into groups of M
// consecutive samples, whose last may be shorter.
//
//        rows   0                 M                 2M                3M   b
//      groups   |        0        |        1        |        2        | 3  |
//      shares   |       rank 0       |       rank 1       |     rank 2     |
//      pieces   |      whole      |01|     1     |   2    |     2     | 3  |
//
// A piece is the part of one group that one rank holds. A group that lies within one rank needs no
// communication; one that spans ranks is *shared*. Ranks tied together by shared groups form one
// sub-communicator: all ranks when M = b (sync BN), single ranks when M divides the share (local
// and ghost BN), M/share ranks in between (group BN), and whatever the cuts demand otherwise. So M
// may be any number and R any number, and what is computed depends on (b, M) alone.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/range.hpp"
#include "comm/communicator.hpp"

namespace syncbn {

struct StatsGroups {
  static constexpr int64_t kWhole = -1;
  struct Piece {
    Range rows;                 ///< within this rank's share
    int64_t shared = kWhole;    ///< which of the shared groups, or kWhole: the whole group is here
    int64_t group_samples = 0;  ///< samples in the whole group, on all ranks
  };

  std::vector<Piece>
      pieces;            ///< this rank's rows, cut at group borders, in row order; no empty piece
  int64_t shared = 0;    ///< shared groups among the ranks of `comm`; the same on each of them
  CommPtr comm;          ///< the ranks that are tied together; never null
  int64_t smallest = 0;  ///< samples in the smallest group of the whole batch
};

/// This rank's part in the groups of a batch of `batch` samples. `group_size`: M ≥ 1, or kLocal for
/// one group per rank share. Not collective: color_of says which ranks belong together.
constexpr int64_t kLocal = 0;
struct GroupPlan {
  StatsGroups groups;  ///< comm not yet set
  int color = 0;       ///< equal for ranks that are tied together
};
GroupPlan plan_groups(int64_t batch, int64_t group_size, int rank, int ranks);

/// The groups for each batch size that occurs (the full one, the short last one, evaluation's).
class StatsGrouping {
 public:
  StatsGrouping(CommPtr world, int64_t group_size) : world_(std::move(world)), size_(group_size) {}
  /// Collective over the world at the first call for this batch size, then a look-up. The reference
  /// stays valid.
  const StatsGroups& of(int64_t batch);

 private:
  CommPtr world_;
  int64_t size_;
  std::map<int64_t, StatsGroups> groups_;
};

/// M from `norm.batch` (global | local | a number) for a global batch of `batch` samples.
int64_t group_size(const std::string& norm_batch, int64_t batch);

}  // namespace syncbn
