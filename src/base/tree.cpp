#include "base/tree.hpp"

#include "base/error.hpp"

namespace syncbn {
namespace {

void collect_nodes(Range node, Range run, std::vector<Range>& nodes) {
  if (run.begin >= node.end || run.end <= node.begin) return;
  if (run.begin <= node.begin && node.end <= run.end) {
    nodes.push_back(node);
    return;
  }
  const auto [left, right] = tree_halves(node);
  collect_nodes(left, run, nodes);
  collect_nodes(right, run, nodes);
}

// Consumes the parts that make up `node`; the last one is followed by the node's own merge.
void count_merges(Range node, const std::vector<Range>& parts, size_t& next,
                  std::vector<int>& merges) {
  SYNCBN_CHECK(next < parts.size() && parts[next].begin == node.begin && parts[next].size() > 0 &&
                   parts[next].end <= node.end,
               "parts that are no nodes");
  if (parts[next].end == node.end) {
    ++next;
    return;
  }
  const auto [left, right] = tree_halves(node);
  count_merges(left, parts, next, merges);
  count_merges(right, parts, next, merges);
  ++merges[next - 1];
}

}  // namespace

std::pair<Range, Range> tree_halves(Range node) {
  int64_t half = 1;
  while (2 * half < node.size()) half *= 2;
  return {{node.begin, node.begin + half}, {node.begin + half, node.end}};
}

std::vector<Range> tree_nodes(int64_t n, Range run) {
  std::vector<Range> nodes;
  if (run.size() > 0) collect_nodes({0, n}, run, nodes);
  return nodes;
}

std::vector<int> tree_merges(int64_t n, const std::vector<Range>& parts) {
  std::vector<int> merges(parts.size(), 0);
  if (parts.empty()) return merges;
  const std::vector<Range> whole = tree_nodes(n, {parts.front().begin, parts.back().end});
  SYNCBN_CHECK(whole.size() == 1, "parts that make up no node");
  size_t next = 0;
  count_merges(whole[0], parts, next, merges);
  return merges;
}

std::vector<int> tree_merges(int64_t n, Range node) {
  std::vector<Range> parts;
  for (int64_t i = node.begin; i < node.end; ++i) parts.push_back({i, i + 1});
  return tree_merges(n, parts);
}

}  // namespace syncbn
