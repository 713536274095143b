#include "nn/tree_exchange.hpp"

#include <ATen/ATen.h>

#include <cstring>

#include "nn/norm_kernels.hpp"

namespace syncbn {
namespace {

// to[i] ← from[j]; a plain copy on CPU, where a dispatched one costs more than the row.
void copy_row(const at::Tensor& from, int64_t j, at::Tensor& to, int64_t i) {
  const int64_t width = from.size(1);
  if (from.is_cpu()) {
    std::memcpy(to.mutable_data_ptr<double>() + i * width,
                from.const_data_ptr<double>() + j * width,
                static_cast<size_t>(width) * sizeof(double));
  } else {
    to[i].copy_(from[j]);
  }
}

}  // namespace

bool TreeExchange::prepare(const StatsGroups& groups) {
  if (groups_ == &groups) return false;
  groups_ = &groups;
  const auto zeros = [&](int64_t rows) {
    return at::zeros({rows, width_}, at::TensorOptions().dtype(at::kDouble).device(device_));
  };
  table_ = zeros(static_cast<int64_t>(groups.pieces.size()));
  slots_ = zeros(groups.slots);
  gathered_ = zeros(groups.slots * groups.comm->size());
  return true;
}

int64_t TreeExchange::fold_rows(const TreeSum& sum, at::Tensor& rows) const {
  return add_in_order(sum, [&](int64_t a, int64_t b) {
    if (fold_ == Fold::kMoments) {
      merge_moments(rows, b, rows, a);
    } else {
      add_row(rows, b, rows, a);
    }
  });
}

Traffic TreeExchange::traffic() const {
  if (groups_->slots == 0 || groups_->comm->size() == 1) return {};
  return {1, static_cast<int64_t>(slots_.nbytes())};
}

void TreeExchange::run(const Purpose& purpose) {
  if (groups_->slots > 0) {
    int64_t slot = 0;
    for (const TreeSum& send : groups_->sends) {
      copy_row(table_, fold_rows(send, table_), slots_, slot++);
    }
    groups_->comm->all_gather(slots_, gathered_, purpose);
  }
  for (const auto& total : groups_->totals) {
    at::Tensor& rows = total.gathered ? gathered_ : table_;
    const int64_t result = fold_rows(total.sum, rows);
    for (int64_t p = total.pieces.begin; p < total.pieces.end; ++p) {
      if (total.gathered || p != result) copy_row(rows, result, table_, p);
    }
  }
}

}  // namespace syncbn
