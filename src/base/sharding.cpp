#include "base/sharding.hpp"

#include <algorithm>

namespace syncbn {

int64_t Sharding::most_rows(int64_t batch) const {
  int64_t most = 0;
  for (int r = 0; r < ranks; ++r) most = std::max(most, rows_of_rank(batch, r).size());
  return most;
}

std::vector<Range> Sharding::shard_rows(int64_t batch) const {
  std::vector<Range> all;
  const Range held = mine();
  const int64_t first = first_row(batch, held.begin);
  for (int64_t v = held.begin; v < held.end; ++v) {
    all.push_back({first_row(batch, v) - first, first_row(batch, v + 1) - first});
  }
  return all;
}

TreeSum Sharding::sum_of(Range node) const {
  TreeSum sum;
  for (int64_t v = node.begin; v < node.end; ++v) sum.parts.push_back(v - mine().begin);
  sum.merges = tree_merges(shards, node);
  return sum;
}

std::vector<TreeSum> Sharding::node_sums() const {
  std::vector<TreeSum> sums;
  for (const Range node : tree_nodes(shards, mine())) sums.push_back(sum_of(node));
  return sums;
}

int64_t Sharding::most_nodes() const {
  size_t most = 0;
  for (int r = 0; r < ranks; ++r) most = std::max(most, tree_nodes(shards, of_rank(r)).size());
  return static_cast<int64_t>(most);
}

}  // namespace syncbn
