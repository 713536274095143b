// The trainer's evaluations: scores by any statistics, recomputed statistics.
#include <ATen/ATen.h>

#include <algorithm>

#include "nn/loss.hpp"
#include "nn/tree_exchange.hpp"
#include "train/trainer.hpp"

namespace syncbn {
namespace {

// Of `samples` as a caller gives them: −1 for all.
int64_t first_samples(const Split& split, int64_t samples) {
  return samples < 0 ? split.size() : std::min(samples, split.size());
}

// Of each of the ranges what lies at or after `from`.
std::vector<Range> rows_from(std::vector<Range> ranges, int64_t from) {
  for (Range& rows : ranges) {
    rows.begin = std::min(std::max(rows.begin, from), rows.end);
  }
  return ranges;
}

}  // namespace

Score Trainer::evaluate(const Split& split, bool keep_statistics) {
  const bool recomputed = options_.norm.kind == "batch" && options_.norm.eval == "recomputed";
  const bool by_batch = options_.norm.kind == "batch" && options_.norm.eval == "batch";
  std::vector<at::Tensor> kept;
  if (recomputed) {
    kept = running_statistics();
    recompute_statistics();
  }
  const Score result = score(split, by_batch ? Statistics::kBatch : Statistics::kRunning);
  if (recomputed && !keep_statistics) set_running_statistics(kept);
  check_finite(result.loss_sum, "evaluation");
  return result;
}

std::vector<at::Tensor> Trainer::running_statistics() const {
  std::vector<at::Tensor> statistics;
  for (BatchNorm* norm : network_.batch_norms()) statistics.push_back(norm->running().clone());
  return statistics;
}

void Trainer::set_running_statistics(const std::vector<at::Tensor>& statistics) {
  const auto norms = network_.batch_norms();
  SYNCBN_CHECK(statistics.size() == norms.size(), statistics.size(), " statistics for ",
               norms.size(), " norm layers");
  for (size_t i = 0; i < norms.size(); ++i) norms[i]->running().copy_(statistics[i]);
}

BatchGather& Trainer::gather_of(const Split& split) {
  if (&split == &data_.train) return train_gather_;
  if (&split == &data_.validation) return validation_gather_;
  SYNCBN_CHECK(&split == &data_.test, "a split of other data");
  return test_gather_;
}

Score Trainer::score(const Split& split, Statistics statistics, int64_t samples) {
  BatchGather& gather = gather_of(split);
  const int64_t end = first_samples(split, samples);
  const bool by_batch = statistics == Statistics::kBatch && !network_.batch_norms().empty();
  TreeExchange totals(2, Fold::kAdd, device_);
  totals.prepare(whole_.of(sharding_.shards));
  const int64_t step = by_batch ? batch_ : evaluation_batch_;
  int64_t counted = 0;
  while (counted < end) {
    int64_t size = std::min(step, end - counted);
    if (by_batch && size < step && end >= step && grouping_.of(size).smallest == 1) size = step;
    const int64_t first = std::min(counted, end - size);
    StepContext context = context_of(size);
    context.training = false;
    context.statistics = by_batch ? Statistics::kBatch : Statistics::kRunning;
    const at::Tensor& logits = forward_only(gather, in_order_.data() + first, context);
    at::Tensor no_gradient;
    softmax_cross_entropy(logits, labels_.narrow(0, 0, logits.size(0)),
                          rows_from(*context.shards, counted - first - context.rows.begin), 1,
                          totals_, no_gradient);
    totals.table().add_(totals_);
    counted = first + size;
  }
  totals.run({"totals of an evaluation"});
  comm_->wait(device_);
  const at::Tensor all = totals.table()[0].cpu();
  return {all[0].item<double>(), static_cast<int64_t>(all[1].item<double>()), end};
}

const at::Tensor& Trainer::forward_only(BatchGather& gather, const int64_t* samples,
                                        StepContext& context) {
  if (context.statistics == Statistics::kBatch) context.groups = &grouping_.of(context.batch);
  const int64_t n = context.rows.size();
  at::Tensor& x = network_.input(n);
  at::Tensor labels = labels_.narrow(0, 0, n);
  gather(samples + context.rows.begin, n, x, labels);
  const at::Tensor& logits = network_.forward(context);
  pace();
  if (on_progress_) on_progress_("evaluation", step_);
  return logits;
}

Range Trainer::look_forward(const int64_t* samples, int64_t count) {
  StepContext context = context_of(count);
  context.training = false;
  context.statistics = Statistics::kRunning;
  forward_only(train_gather_, samples, context);
  return context.rows;
}

void Trainer::look_backward(const int64_t* samples, int64_t count, const Network::Look& look) {
  StepContext context = context_of(count);
  context.training = false;
  const at::Tensor& logits = forward_only(train_gather_, samples, context);
  softmax_cross_entropy(logits, labels_.narrow(0, 0, logits.size(0)), *context.shards,
                        1.0 / static_cast<double>(count), totals_, network_.logits_gradient());
  network_.backward(context, look);
  replica_.sum(totals_);
  pace();
}

void Trainer::recompute_statistics(int64_t samples) {
  const int64_t end = first_samples(data_.train, samples);
  for (int64_t first = 0; first < end; first += batch_) {
    StepContext context = context_of(std::min(batch_, end - first));
    context.training = false;
    context.collect = true;
    forward_only(train_gather_, in_order_.data() + first, context);
  }
  for (BatchNorm* norm : network_.batch_norms()) {
    const at::Tensor mine = norm->take_collected();  // (shards, 2C+1)
    TreeExchange pooled(mine.size(1), Fold::kMoments, device_);
    pooled.prepare(whole_.of(sharding_.shards));
    pooled.table().copy_(mine);
    pooled.run({"recomputed statistics"});
    comm_->wait(device_);
    norm->set_running(pooled.table()[0]);
  }
}

}  // namespace syncbn
