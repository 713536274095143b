// The tree of a sum: the one order in which n parts are added, whoever holds them.
//
// Floating-point addition is not associative, so a sum has the same bits on any number of ranks
// only if its additions are the same ones. Here they are those of one binary tree over the parts 0
// … n−1, whose node [a, b) of s > 1 parts splits after the largest power of two below s:
//
//        [0, 5)                     ((0 + 1) + (2 + 3)) + 4
//       ┌───┴──┐
//     [0, 4)   4                    Ranks hold runs of neighbouring parts. A rank adds up the
//    ┌──┴──┐                        largest nodes that lie within its run (all of it when runs are
//  [0,2) [2,4)                      aligned, at most 2·log₂ n nodes otherwise) and hands these on;
//  0   1 2   3                      whoever has all nodes finishes the tree.
//
// A left-to-right pass with a stack adds any such run: push a part, then merge the top two as often
// as the tree says after this part.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/range.hpp"

namespace syncbn {

/// The two halves of a node of at least two parts.
std::pair<Range, Range> tree_halves(Range node);

/// The largest nodes of the tree over parts [0, n) that lie within `run`, in order; none if it is
/// empty.
std::vector<Range> tree_nodes(int64_t n, Range run);

/// `parts` are neighbouring nodes that make up one node of the tree over [0, n): how many merges
/// follow each part in the pass from left to right.
std::vector<int> tree_merges(int64_t n, const std::vector<Range>& parts);

/// The same for the single parts first … last of `node`.
std::vector<int> tree_merges(int64_t n, Range node);

/// One sum: where its parts are, in order, and the merges after each.
struct TreeSum {
  std::vector<int64_t> parts;
  std::vector<int> merges;
};

/// Adds up: calls add(a, b) for "a takes b in" in the tree's order and returns the part that then
/// holds the total. The parts are overwritten. Nothing is allocated.
template <class Add>
int64_t add_in_order(const TreeSum& sum, Add&& add) {
  std::array<int64_t, 64> stack{};  // deeper than any tree over 2^62 parts
  std::size_t depth = 0;
  for (std::size_t i = 0; i < sum.parts.size(); ++i) {
    stack[depth++] = sum.parts[i];
    for (int m = 0; m < sum.merges[i]; ++m, --depth) add(stack[depth - 2], stack[depth - 1]);
  }
  return stack[0];
}

}  // namespace syncbn
