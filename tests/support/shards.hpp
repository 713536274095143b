// Shards of any sizes dealt out to any number of ranks, all played by one process.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <vector>

#include "base/sharding.hpp"

namespace syncbn {

/// The sum of parts begin … end − 1 by the definition of base/tree.hpp.
inline at::Tensor tree_total(const std::vector<at::Tensor>& parts, int64_t begin, int64_t end) {
  if (end - begin == 1) return parts[static_cast<size_t>(begin)].clone();
  int64_t half = 1;
  while (2 * half < end - begin) half *= 2;
  return tree_total(parts, begin, begin + half) + tree_total(parts, begin + half, end);
}
inline at::Tensor tree_total(const std::vector<at::Tensor>& parts) {
  return tree_total(parts, 0, static_cast<int64_t>(parts.size()));
}

/// What rank `rank` of `ranks` holds of shards of these sizes.
struct Held {
  Held(const std::vector<int64_t>& sizes, int rank, int ranks)
      : sharding{static_cast<int64_t>(sizes.size()), rank, ranks, true} {
    const Range mine = sharding.mine();
    int64_t next = 0;
    for (int64_t v = 0; v < mine.end; ++v) {
      if (v == mine.begin) rows.begin = next;
      const int64_t begin = next - rows.begin;
      next += sizes[static_cast<size_t>(v)];
      if (v >= mine.begin) shards.push_back({begin, next - rows.begin});
    }
    rows.end = next;
    if (mine.size() == 0) rows.begin = next;
  }

  /// This rank's rows of a matrix of the whole batch.
  at::Tensor of(const at::Tensor& batch) const { return batch.narrow(0, rows.begin, rows.size()); }

  Sharding sharding;
  Range rows;                 ///< of the batch
  std::vector<Range> shards;  ///< within these
};

/// Adds up what `nodes_of` makes on each rank: one tensor per node of the tree in its shards.
inline at::Tensor total_over_ranks(
    const std::vector<int64_t>& sizes, int ranks,
    const std::function<std::vector<at::Tensor>(const Held& held)>& nodes_of) {
  std::vector<at::Tensor> parts;
  std::vector<Range> nodes;
  for (int r = 0; r < ranks; ++r) {
    const Held held(sizes, r, ranks);
    for (const at::Tensor& node : nodes_of(held)) parts.push_back(node);
    for (const Range node : tree_nodes(held.sharding.shards, held.sharding.mine())) {
      nodes.push_back(node);
    }
  }
  TreeSum last = {{}, tree_merges(static_cast<int64_t>(sizes.size()), nodes)};
  for (size_t i = 0; i < nodes.size(); ++i) last.parts.push_back(static_cast<int64_t>(i));
  const auto part = [&](int64_t i) -> at::Tensor& { return parts[static_cast<size_t>(i)]; };
  return part(add_in_order(last, [&](int64_t a, int64_t b) { part(a).add_(part(b)); }));
}

}  // namespace syncbn
