#include "comm/tree_all_reduce.hpp"

#include <ATen/ATen.h>

#include <algorithm>

namespace syncbn {
namespace {

constexpr int64_t kBlock = 2048;  // elements of each row that are summed while they are in cache

template <class T>
void add_rows(const TreeSum& sum, T* rows, int64_t width) {
  for (int64_t first = 0; first < width; first += kBlock) {
    const int64_t count = std::min(kBlock, width - first);
    add_in_order(sum, [&](int64_t a, int64_t b) {
      T* into = rows + a * width + first;
      const T* from = rows + b * width + first;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) into[i] += from[i];
    });
  }
}

}  // namespace

TreeAllReduce::TreeAllReduce(CommPtr comm, const Sharding& sharding, int64_t width,
                             at::ScalarType dtype, at::Device device)
    : comm_(std::move(comm)), canonical_(sharding.canonical) {
  const int64_t ranks = comm_->size(), most = std::max<int64_t>(1, sharding.most_nodes());
  SYNCBN_CHECK(sharding.ranks == ranks && (canonical_ || sharding.shards == ranks),
               "A sharding of ", sharding.shards, " shards on ", sharding.ranks,
               " ranks, summed over ", ranks, ".");
  const int64_t slice = (width + ranks - 1) / ranks;
  const auto options = at::TensorOptions(dtype).device(device);
  padded_ = at::zeros({most, ranks * slice}, options);
  nodes_ = padded_.narrow(1, 0, width);
  total_ = nodes_[0];
  if (!canonical_ || ranks == 1) return;
  received_ = at::zeros({most, ranks, slice}, options);
  slice_ = at::zeros({slice}, options);
  std::vector<Range> nodes;
  for (int r = 0; r < sharding.ranks; ++r) {
    int64_t k = 0;
    for (const Range node : tree_nodes(sharding.shards, sharding.of_rank(r))) {
      nodes.push_back(node);
      last_.parts.push_back(k++ * ranks + r);
    }
  }
  last_.merges = tree_merges(sharding.shards, nodes);
}

void TreeAllReduce::run(const Purpose& purpose) {
  if (!canonical_) {
    at::Tensor all = padded_[0];
    comm_->all_reduce(all, ReduceOp::kSum, purpose);
    return;
  }
  if (comm_->size() == 1) return;  // the one rank's one node is the tree
  for (int64_t k = 0; k < padded_.size(0); ++k) {
    at::Tensor out = received_[k];
    comm_->all_to_all(padded_[k].view_as(out), out, purpose);
  }
  finish_slice();
  at::Tensor all = padded_[0];
  comm_->all_gather(slice_, all, purpose);
}

Traffic TreeAllReduce::traffic() const {
  if (comm_->size() == 1) return {};
  const auto row = static_cast<int64_t>(padded_[0].nbytes());
  if (!canonical_) return {1, row};
  const int64_t rows = padded_.size(0);
  return {rows + 1, rows * row + static_cast<int64_t>(slice_.nbytes())};
}

void TreeAllReduce::finish_slice() {
  const int64_t slice = slice_.numel();
  at::Tensor rows = received_.flatten(0, 1);
  if (!rows.is_cpu()) {
    const int64_t total = add_in_order(last_, [&](int64_t a, int64_t b) { rows[a].add_(rows[b]); });
    slice_.copy_(rows[total]);
    return;
  }
  if (rows.scalar_type() == at::kFloat) {
    add_rows(last_, rows.mutable_data_ptr<float>(), slice);
  } else {
    add_rows(last_, rows.mutable_data_ptr<double>(), slice);
  }
  slice_.copy_(rows[last_.parts[0]]);  // a tree's total is where its first part was
}

}  // namespace syncbn
