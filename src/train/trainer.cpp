#include "train/trainer.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <utility>

#include "nn/loss.hpp"
#include "nn/norm_kernels.hpp"

namespace syncbn {
namespace {

constexpr int64_t kEvaluationRows =
    500;                             // per rank and call, where no statistics tie rows together
constexpr int64_t kCheckEvery = 50;  // steps between looks at the loss on CUDA, where one waits

// Adds the seconds since the last lap to one counter after the other.
class Stopwatch {
 public:
  void lap(double& counter) {
    const auto now = Clock::now();
    counter += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point last_ = Clock::now();
};

at::ScalarType dtype_of(const Options& options) {
  return options.run.dtype == "float64" ? at::kDouble : at::kFloat;
}

int64_t largest_share(int64_t batch, int ranks) {
  return (batch + ranks - 1) / ranks;
}

bool evaluates_by_batch(const Options& options) {
  return options.norm.kind == "batch" && options.norm.eval == "batch";
}

// Rows of the largest call: a training share, or a share of an evaluation batch.
int64_t capacity_for(const Options& options, int ranks) {
  return std::max(kEvaluationRows, largest_share(global_batch(options.train, ranks), ranks));
}

// B must fit the data, and each statistics group needs two samples for a variance.
int64_t checked_batch(const Options& options, const Dataset& data, int ranks) {
  const int64_t batch = global_batch(options.train, ranks), samples = data.train.size();
  if (batch > samples) {
    throw option_error(options, "train.batch",
                       concat("train.batch = ", batch, " is more than the ", samples,
                              " training samples; choose a batch of at most ", samples));
  }
  if (options.norm.kind != "batch") return batch;
  const int64_t size = group_size(options.norm.batch, batch);
  const int64_t last = options.train.drop_last ? 0 : samples % batch;
  for (const int64_t b : {batch, last}) {
    if (b == 0 || plan_groups(b, size, 0, ranks).groups.smallest > 1) continue;
    throw option_error(options, "norm.batch",
                       concat("with norm.batch = ", options.norm.batch,
                              " and train.batch = ", batch, " on ", ranks, " ranks, a batch of ", b,
                              " samples has a statistics group of one sample, which has no "
                              "variance; ",
                              b == last ? "set train.drop_last = true or choose another train.batch"
                                        : "choose a larger train.batch or norm.batch"));
  }
  return batch;
}

}  // namespace

Trainer::Trainer(CommPtr comm, const Options& options, const Dataset& data, at::Device device)
    : comm_(std::move(comm)),
      options_(options),
      data_(data),
      device_(device),
      batch_(checked_batch(options, data, comm_->size())),
      capacity_(capacity_for(options, comm_->size())),
      sampler_(data.train.size(), batch_, static_cast<uint64_t>(options.run.seed),
               options.train.drop_last),
      network_(options.model, options.norm,
               {data.train.pixels(), kClasses, capacity_, dtype_of(options), device},
               static_cast<uint64_t>(options.run.seed)),
      replica_(network_, dtype_of(options), device, comm_),
      optimizer_(options.train, replica_.parameters(), replica_.gradients()),
      rate_(options.train, batch_, sampler_.steps_per_epoch()),
      grouping_(comm_, group_size(options.norm.batch, batch_)),
      train_gather_(data.train, pixel_scale(options.data.scale), capacity_, dtype_of(options),
                    device),
      validation_gather_(data.validation, pixel_scale(options.data.scale), capacity_,
                         dtype_of(options), device),
      labels_(at::zeros({capacity_}, at::TensorOptions(at::kLong).device(device))),
      totals_(at::zeros({2}, at::TensorOptions(at::kDouble).device(device))),
      epoch_totals_(at::zeros_like(totals_)),
      in_order_(static_cast<size_t>(std::max(data.train.size(), data.validation.size()))) {
  std::iota(in_order_.begin(), in_order_.end(), int64_t{0});
}

int64_t Trainer::steps_in_all() const {
  const int64_t planned = options_.train.epochs * steps_per_epoch();
  return options_.train.max_steps < 0 ? planned : std::min(planned, options_.train.max_steps);
}

StepTimes Trainer::take_times() {
  return std::exchange(times_, StepTimes{});
}

Score Trainer::train_epoch(int64_t epoch) {
  start_epoch(epoch);
  epoch_totals_.zero_();
  const int64_t steps = std::min(steps_per_epoch(), steps_in_all() - step_);
  int64_t samples = 0;
  for (int64_t k = 0; k < steps; ++k) {
    train_step(k);
    samples += sampler_.batch_size(k);
    if (device_.is_cpu() || step_ % kCheckEvery == 0 || k + 1 == steps) check_finite();
    if (on_progress_) on_progress_("training", step_);
  }
  return reduce(epoch_totals_, samples);
}

void Trainer::train_step(int64_t k) {
  StepContext context;
  context.batch = sampler_.batch_size(k);
  context.rows = share_of(context.batch, comm_->rank(), comm_->size());
  context.groups = &grouping_.of(context.batch);
  context.step = step_;
  context.times = &times_;
  const int64_t n = context.rows.size();
  Stopwatch watch;

  at::Tensor& x = network_.input(n);  // (n, pixels)
  at::Tensor labels = labels_.narrow(0, 0, n);
  train_gather_(sampler_.samples(k, context.rows), n, x, labels);
  watch.lap(times_.data);

  const double comm_before = times_.norm_comm;
  const at::Tensor& logits = network_.forward(context);  // (n, classes)
  const double scale = 1.0 / static_cast<double>(context.batch);
  softmax_cross_entropy(logits, labels, scale, totals_, network_.logits_gradient());
  watch.lap(times_.forward);
  const double comm_between = times_.norm_comm;
  network_.backward(context);
  watch.lap(times_.backward);
  times_.forward -= comm_between - comm_before;
  times_.backward -= times_.norm_comm - comm_between;

  epoch_totals_.add_(totals_);
  replica_.reduce(totals_.narrow(0, 0, 1));
  watch.lap(times_.gradient_comm);
  optimizer_.step(rate_.at(step_));
  watch.lap(times_.optimizer);
  ++step_;
}

void Trainer::check_finite() const {
  const double loss = replica_.reduced_loss();
  if (std::isfinite(loss)) return;
  throw UsageError(
      concat("the training loss is ", loss, " at step ", step_,
             ": the run has diverged; lower train.lr (now ", rate_.at(step_ - 1),
             "), clip the gradient with train.clip, or warm up with train.warmup_steps"),
      ExitCode::kInvariant);
}

Score Trainer::evaluate(const Split& split) {
  const bool recomputed = options_.norm.kind == "batch" && options_.norm.eval == "recomputed";
  if (!recomputed) {
    return score(split, evaluates_by_batch(options_) ? Statistics::kBatch : Statistics::kRunning);
  }
  std::vector<at::Tensor> kept;
  for (BatchNorm* norm : network_.batch_norms()) kept.push_back(norm->running().clone());
  recompute_statistics();
  const Score result = score(split, Statistics::kRunning);
  size_t i = 0;
  for (BatchNorm* norm : network_.batch_norms()) norm->running().copy_(kept[i++]);
  return result;
}

Score Trainer::score(const Split& split, Statistics statistics) {
  BatchGather& gather = &split == &data_.train ? train_gather_ : validation_gather_;
  SYNCBN_CHECK(&split == &data_.train || &split == &data_.validation, "a split of other data");
  at::Tensor totals = at::zeros_like(totals_);
  StepContext context;
  context.training = false;
  context.statistics = statistics;
  const int64_t step = statistics == Statistics::kBatch ? batch_ : kEvaluationRows * comm_->size();
  for (int64_t first = 0; first < split.size(); first += step) {
    forward_only(gather, first, std::min(step, split.size() - first), context, totals);
  }
  return reduce(totals, split.size());
}

void Trainer::forward_only(BatchGather& gather, int64_t first, int64_t batch, StepContext context,
                           at::Tensor& totals) {
  context.batch = batch;
  context.rows = share_of(batch, comm_->rank(), comm_->size());
  if (context.statistics == Statistics::kBatch) context.groups = &grouping_.of(batch);
  const int64_t n = context.rows.size();
  at::Tensor& x = network_.input(n);
  at::Tensor labels = labels_.narrow(0, 0, n);
  gather(in_order_.data() + first + context.rows.begin, n, x, labels);
  at::Tensor no_gradient;
  softmax_cross_entropy(network_.forward(context), labels, 1, totals_, no_gradient);
  totals.add_(totals_);
  if (on_progress_) on_progress_("evaluation", step_);
}

void Trainer::recompute_statistics() {
  StepContext context;
  context.training = false;
  context.collect = true;
  at::Tensor ignored = at::zeros_like(totals_);
  const int64_t samples = data_.train.size();
  for (int64_t first = 0; first < samples; first += batch_) {
    forward_only(train_gather_, first, std::min(batch_, samples - first), context, ignored);
  }
  for (BatchNorm* norm : network_.batch_norms()) {
    const at::Tensor mine = norm->take_collected();  // (1, 2C+1)
    at::Tensor all = at::empty({comm_->size(), 1, mine.size(1)}, mine.options());
    comm_->all_gather(mine, all);
    at::Tensor pooled = at::empty_like(mine);
    fold_moments(all, pooled);
    norm->set_running(pooled);
  }
}

Score Trainer::reduce(const at::Tensor& totals, int64_t samples) {
  at::Tensor loss = totals.narrow(0, 0, 1).clone();
  at::Tensor correct = totals.narrow(0, 1, 1).to(at::kLong);
  comm_->all_reduce(loss);
  comm_->all_reduce(correct);
  return {loss.item<double>(), correct.item<int64_t>(), samples};
}

}  // namespace syncbn
