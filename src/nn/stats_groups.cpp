#include "nn/stats_groups.hpp"

#include <algorithm>
#include <utility>

namespace syncbn {
namespace {

// Start of each group, and b at the end.
std::vector<int64_t> group_offsets(int64_t batch, int64_t group_size, const Sharding& sharding) {
  std::vector<int64_t> offsets;
  if (group_size == kLocal) {
    for (int64_t v = 0; v < sharding.shards; ++v) {
      const int64_t begin = sharding.first_row(batch, v);
      if (begin < sharding.first_row(batch, v + 1)) offsets.push_back(begin);
    }
  } else {
    for (int64_t begin = 0; begin < batch; begin += group_size) offsets.push_back(begin);
  }
  offsets.push_back(batch);
  return offsets;
}

// The ranks that groups tie to this one, [first, last]: those whose common border lies in a group.
struct Tied {
  int first, last;
};

Tied tied_ranks(const std::vector<int64_t>& offsets, int64_t batch, const Sharding& sharding) {
  const auto split = [&](int r) {  // between rank r − 1 and r
    return std::binary_search(offsets.begin(), offsets.end(),
                              sharding.rows_of_rank(batch, r).begin);
  };
  Tied tied = {sharding.rank, sharding.rank};
  while (tied.first > 0 && !split(tied.first)) --tied.first;
  while (tied.last + 1 < sharding.ranks && !split(tied.last + 1)) ++tied.last;
  return tied;
}

// Makes the plan, group by group.
class Planner {
 public:
  Planner(int64_t batch, const Sharding& sharding, Tied tied)
      : batch_(batch), sharding_(sharding), tied_(tied), slots_(count_of(tied), 0) {}

  void add(Range group) {
    std::vector<int64_t> shards;  // that the group has samples in: the leaves of its tree
    while (sharding_.first_row(batch_, shard_ + 1) <= group.begin) ++shard_;
    for (int64_t v = shard_; v < sharding_.shards; ++v) {
      const Range rows = shard_rows(v);
      if (rows.begin >= group.end) break;
      if (rows.size() > 0) shards.push_back(v);
    }
    const Range mine = add_pieces(group, shards);
    if (!on_one_rank(shards)) {
      add_shared(shards, mine);
    } else if (mine.size() > 1) {
      add_whole(mine);
    }
  }

  StatsGroups finish() {
    groups_.slots = *std::max_element(slots_.begin(), slots_.end());
    for (auto& total : groups_.totals) {
      if (!total.gathered) continue;
      for (int64_t& part : total.sum.parts) {  // so far (slot, rank) in one number
        const auto ranks = static_cast<int64_t>(slots_.size());
        part = part % ranks * groups_.slots + part / ranks;
      }
    }
    return std::move(groups_);
  }

 private:
  static size_t count_of(Tied tied) { return static_cast<size_t>(tied.last - tied.first) + 1; }
  Range shard_rows(int64_t v) const {
    return {sharding_.first_row(batch_, v), sharding_.first_row(batch_, v + 1)};
  }

  bool on_one_rank(const std::vector<int64_t>& shards) const {
    int r = tied_.first;
    while (sharding_.of_rank(r).end <= shards.front()) ++r;
    return shards.back() < sharding_.of_rank(r).end;
  }

  // Adds this rank's pieces of the group; returns which of `shards` they are.
  Range add_pieces(Range group, const std::vector<int64_t>& shards) {
    const Range held = sharding_.mine();
    const int64_t first_row = sharding_.rows(batch_).begin;
    Range leaves;
    for (size_t i = 0; i < shards.size(); ++i) {
      const auto leaf = static_cast<int64_t>(i);
      if (shards[i] < held.begin) leaves = {leaf + 1, leaf + 1};
      if (shards[i] < held.begin || shards[i] >= held.end) continue;
      leaves.end = leaf + 1;
      const Range rows = shard_rows(shards[i]);
      groups_.pieces.push_back({{std::max(rows.begin, group.begin) - first_row,
                                 std::min(rows.end, group.end) - first_row},
                                shards[i] - held.begin,
                                group.size()});
    }
    return leaves;
  }

  // The sum over pieces first + node of the tree over `leaves` of them.
  static TreeSum piece_sum(int64_t first, Range node, int64_t leaves) {
    TreeSum sum;
    for (int64_t i = node.begin; i < node.end; ++i) sum.parts.push_back(first + i);
    sum.merges = tree_merges(leaves, node);
    return sum;
  }

  void add_whole(Range leaves) {
    const auto end = static_cast<int64_t>(groups_.pieces.size());
    const int64_t first = end - leaves.size();
    groups_.totals.push_back(
        {piece_sum(first, {0, leaves.size()}, leaves.size()), false, {first, end}});
  }

  // A group that spans ranks: each rank fills a slot per node of the tree within its leaves.
  void add_shared(const std::vector<int64_t>& shards, Range mine) {
    const auto leaves = static_cast<int64_t>(shards.size());
    const auto end = static_cast<int64_t>(groups_.pieces.size());
    const int64_t first = end - mine.size();
    std::vector<Range> nodes;
    StatsGroups::Total total;
    int64_t next = 0;
    for (int r = tied_.first; r <= tied_.last; ++r) {
      const int64_t begin = next;
      while (next < leaves && shards[static_cast<size_t>(next)] < sharding_.of_rank(r).end) ++next;
      const auto place = static_cast<size_t>(r - tied_.first);
      for (const Range node : tree_nodes(leaves, {begin, next})) {
        nodes.push_back(node);
        const int64_t slot = slots_[place]++;
        total.sum.parts.push_back(slot * static_cast<int64_t>(slots_.size()) +
                                  static_cast<int64_t>(place));
        if (r == sharding_.rank) {
          groups_.sends.push_back(piece_sum(first - mine.begin, node, leaves));
        }
      }
    }
    if (mine.size() == 0) return;
    total.sum.merges = tree_merges(leaves, nodes);
    total.gathered = true;
    total.pieces = {first, end};
    groups_.totals.push_back(std::move(total));
  }

  int64_t batch_;
  Sharding sharding_;
  Tied tied_;
  std::vector<int64_t> slots_;  // filled so far, of each tied rank
  int64_t shard_ = 0;           // where the group before began
  StatsGroups groups_;
};

}  // namespace

GroupPlan plan_groups(int64_t batch, int64_t group_size, const Sharding& sharding) {
  SYNCBN_CHECK(batch >= 0 && group_size >= 0 && sharding.rank >= 0 &&
               sharding.rank < sharding.ranks);
  const auto offsets = group_offsets(batch, group_size, sharding);
  const Tied tied = tied_ranks(offsets, batch, sharding);
  const Range rows = {sharding.rows_of_rank(batch, tied.first).begin,
                      sharding.rows_of_rank(batch, tied.last).end};
  Planner planner(batch, sharding, tied);
  int64_t smallest = batch;
  for (size_t g = 0; g + 1 < offsets.size(); ++g) {
    const Range group = {offsets[g], offsets[g + 1]};
    smallest = std::min(smallest, group.size());
    if (group.size() > 0 && group.begin >= rows.begin && group.end <= rows.end) planner.add(group);
  }
  GroupPlan plan = {planner.finish(), tied.first};
  plan.groups.smallest = smallest;
  plan.groups.canonical = sharding.canonical;
  return plan;
}

const StatsGroups& StatsGrouping::of(int64_t batch) {
  const auto known = groups_.find(batch);
  if (known != groups_.end()) return known->second;
  GroupPlan plan = plan_groups(batch, size_, sharding_);
  plan.groups.comm = world_->split(plan.color, world_->rank(), {"ranks of statistics groups"});
  return groups_.emplace(batch, std::move(plan.groups)).first->second;
}

int64_t group_size(const std::string& norm_batch, int64_t batch) {
  if (norm_batch == "global") return batch;
  if (norm_batch == "local") return kLocal;
  return std::stoll(norm_batch);
}

}  // namespace syncbn
