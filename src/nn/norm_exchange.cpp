#include "nn/norm_exchange.hpp"

#include <ATen/ATen.h>

#include <cstring>

#include "nn/norm_kernels.hpp"

namespace syncbn {
namespace {

// dst[i] ← src[j], rows of float64; a plain copy on CPU, where a dispatched one costs more than the
// row.
void copy_row(const at::Tensor& src, int64_t j, at::Tensor& dst, int64_t i) {
  const int64_t width = src.size(1);
  if (src.is_cpu()) {
    std::memcpy(dst.mutable_data_ptr<double>() + i * width,
                src.const_data_ptr<double>() + j * width,
                static_cast<size_t>(width) * sizeof(double));
  } else {
    dst[i].copy_(src[j]);
  }
}

}  // namespace

void NormExchange::prepare(const StatsGroups& groups) {
  if (groups_ == &groups) return;
  groups_ = &groups;
  rows_.clear();
  for (const auto& piece : groups.pieces) rows_.push_back(piece.rows);
  const auto pieces = static_cast<int64_t>(rows_.size());
  const auto options = at::TensorOptions().dtype(at::kDouble).device(device_);
  stats_ = at::zeros({pieces, 2 * features_ + 1}, options);
  sums_ = at::zeros({pieces, 2 * features_}, options);
  stats_table_ = at::zeros({groups.shared, 2 * features_ + 1}, options);
  gathered_ = at::zeros({groups.comm->size(), groups.shared, 2 * features_ + 1}, options);
  sums_table_ = at::zeros({groups.shared, 2 * features_}, options);
}

void NormExchange::to_table(const at::Tensor& pieces, at::Tensor& table) const {
  table.zero_();
  for (size_t p = 0; p < groups_->pieces.size(); ++p) {
    const int64_t shared = groups_->pieces[p].shared;
    if (shared != StatsGroups::kWhole) copy_row(pieces, static_cast<int64_t>(p), table, shared);
  }
}

void NormExchange::from_table(const at::Tensor& table, at::Tensor& pieces) const {
  for (size_t p = 0; p < groups_->pieces.size(); ++p) {
    const int64_t shared = groups_->pieces[p].shared;
    if (shared != StatsGroups::kWhole) copy_row(table, shared, pieces, static_cast<int64_t>(p));
  }
}

void NormExchange::forward() {
  if (groups_->shared == 0) return;
  to_table(stats_, stats_table_);
  groups_->comm->all_gather(stats_table_, gathered_);
  fold_moments(gathered_, stats_table_);
  from_table(stats_table_, stats_);
}

void NormExchange::backward() {
  if (groups_->shared == 0) return;
  to_table(sums_, sums_table_);
  groups_->comm->all_reduce(sums_table_);
  from_table(sums_table_, sums_);
}

}  // namespace syncbn
