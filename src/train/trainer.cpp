#include "train/trainer.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/clock.hpp"
#include "nn/loss.hpp"

namespace syncbn {
namespace {

// Per shard and call of an evaluation where no statistics tie rows together; a fast run has one
// shard per rank.
constexpr int64_t kEvaluationRows = 500, kEvaluationRowsOfShard = 64;
// Steps between looks at the loss on CUDA, where looking waits for the device.
constexpr int64_t kLookEvery = 50;

// Adds the seconds since the last lap to one counter after the other.
class Stopwatch {
 public:
  void lap(double& counter) {
    const auto now = Clock::now();
    counter += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  Clock::time_point last_ = Clock::now();
};

at::ScalarType dtype_of(const Options& options) {
  return options.run.dtype == "float64" ? at::kDouble : at::kFloat;
}

// Samples in a batch of an evaluation by running statistics.
int64_t rows_of_evaluation(const Sharding& sharding) {
  return (sharding.canonical ? kEvaluationRowsOfShard : kEvaluationRows) * sharding.shards;
}

int64_t checked_batch(const Options& options, const Dataset& data, int ranks) {
  check_options(options, data, ranks);
  return global_batch(options.train, ranks);
}

std::optional<uint64_t> grouping_seed(const Options& options) {
  if (options.seed.grouping < 0) return std::nullopt;
  return seed_of(options, Stream::kGrouping);
}

}  // namespace

void check_options(const Options& options, const Dataset& data, int ranks) {
  validate_for_data(options, data.train.pixels(), data.classes);
  if (options.data.augment != "none" && data.train.width == 0) {
    throw option_error(options, "data.augment",
                       concat("expected none, since the samples have no rows and columns, found ",
                              options.data.augment));
  }
  const int64_t samples = data.train.size(), batch = global_batch(options.train, ranks);
  if (batch > samples) {
    throw option_error(options, batch_key(options.train),
                       concat("expected a global batch of at most the ", samples,
                              " training samples, found ", batch),
                       {"data.limit", "data.validation"});
  }
  if (options.norm.kind != "batch") return;
  const Sharding sharding = make_sharding(options.run, 0, ranks);
  const int64_t size = group_size(options.norm.batch, batch);
  const int64_t last = options.train.drop_last ? 0 : samples % batch;
  for (const int64_t b : {batch, last}) {
    if (b == 0 || plan_groups(b, size, sharding).groups.smallest > 1) continue;
    throw option_error(
        options, "norm.batch",
        concat("with norm.batch = ", options.norm.batch, " and train.batch = ", batch, " in ",
               sharding.shards, sharding.canonical ? " shards" : " ranks' shares", ", a batch of ",
               b, " of the ", samples,
               " training samples has a statistics group of one sample, which has "
               "no variance; ",
               b == last ? "set train.drop_last = true or choose another train.batch"
                         : "choose a larger train.batch or norm.batch"),
        {batch_key(options.train), "data.limit", "data.validation", "train.drop_last", "run.shards",
         "run.reduce"});
  }
}

Trainer::Trainer(CommPtr comm, const Options& options, const Dataset& data, at::Device device,
                 int64_t look_every)
    : comm_(std::move(comm)),
      options_(options),
      data_(data),
      device_(device),
      sharding_(make_sharding(options.run, comm_->rank(), comm_->size())),
      look_every_(look_every > 0    ? look_every
                  : device.is_cpu() ? 1
                                    : kLookEvery),
      batch_(checked_batch(options, data, comm_->size())),
      evaluation_batch_(rows_of_evaluation(sharding_)),
      capacity_(std::max(sharding_.most_rows(evaluation_batch_), sharding_.most_rows(batch_))),
      sampler_(data.train.size(), batch_, seed_of(options, Stream::kOrder), options.train.drop_last,
               grouping_seed(options)),
      network_(options.model, options.norm,
               {data.train.pixels(), data.classes, capacity_, dtype_of(options), device},
               {seed_of(options, Stream::kInit), seed_of(options, Stream::kDropout)}),
      replica_(network_, sharding_, dtype_of(options), device, comm_),
      optimizer_(options.train, replica_.parameters(), replica_.gradients(), replica_.weights()),
      rate_(options.train, batch_, sampler_.steps_per_epoch()),
      grouping_(comm_, sharding_, group_size(options.norm.batch, batch_)),
      whole_(comm_, sharding_, sharding_.shards),
      train_gather_(data.train, pixel_scale(options.data.scale, data.standard), capacity_,
                    dtype_of(options), device),
      validation_gather_(data.validation, pixel_scale(options.data.scale, data.standard), capacity_,
                         dtype_of(options), device),
      test_gather_(data.test, pixel_scale(options.data.scale, data.standard), capacity_,
                   dtype_of(options), device),
      augmentation_(options.data.augment, seed_of(options, Stream::kAugmentation),
                    data.train.height(), data.train.width),
      marks_{DeviceMark(device), DeviceMark(device)},
      labels_(at::zeros({capacity_}, at::TensorOptions(at::kLong).device(device))),
      totals_(
          at::zeros({sharding_.mine().size(), 2}, at::TensorOptions(at::kDouble).device(device))),
      step_loss_(at::zeros({1}, totals_.options())),
      epoch_loss_(at::zeros_like(step_loss_)),
      met_loss_(at::zeros_like(step_loss_)),
      first_loss_(at::full_like(step_loss_, NAN)),
      epoch_correct_(at::zeros({sharding_.mine().size(), 1}, totals_.options())),
      in_order_(static_cast<size_t>(
          std::max({data.train.size(), data.validation.size(), data.test.size()}))) {
  std::iota(in_order_.begin(), in_order_.end(), int64_t{0});
}

int64_t Trainer::samples_per_epoch() const {
  return std::min(steps_per_epoch() * batch_, data_.train.size());
}

int64_t Trainer::steps_in_all() const {
  const int64_t planned = options_.train.epochs * steps_per_epoch();
  return options_.train.max_steps < 0 ? planned : std::min(planned, options_.train.max_steps);
}

StepTimes Trainer::take_times() {
  return std::exchange(times_, StepTimes{});
}

int64_t Trainer::epochs_in_all() const {
  return (steps_in_all() + steps_per_epoch() - 1) / std::max<int64_t>(1, steps_per_epoch());
}

void Trainer::start_epoch(int64_t epoch) {
  sampler_.start_epoch(epoch);
  augmentation_.start_epoch(epoch);
}

void Trainer::begin_epoch(int64_t epoch) {
  start_epoch(epoch);
  if (summed_epoch_ == epoch) return;
  summed_epoch_ = epoch;
  epoch_loss_.zero_();
  epoch_correct_.zero_();
}

std::optional<Score> Trainer::train_epoch(int64_t epoch) {
  const int64_t first = epoch * steps_per_epoch();
  const int64_t end = std::min(first + steps_per_epoch(), steps_in_all());
  SYNCBN_CHECK(first <= step_ && step_ <= end, "step ", step_, " is not in epoch ", epoch);
  if (step_ < end || summed_epoch_ != epoch) begin_epoch(epoch);
  while (step_ < end) {
    train_step(step_ - first);
    const bool looks = step_ % look_every_ == 0 || step_ == end;
    if (looks) check_loss();
    if (on_progress_) on_progress_("training", step_);
    if (after_step_ && !after_step_(looks)) return std::nullopt;
  }
  int64_t samples = 0;
  for (int64_t k = 0; k < end - first; ++k) samples += sampler_.batch_size(k);
  const auto correct = summed_correct().item<int64_t>();
  return Score{epoch_loss_.item<double>(), correct, samples};
}

Trainer::Met Trainer::take_met() {
  comm_->wait(device_);
  const Met met{met_loss_.item<double>(), first_loss_.item<double>()};
  met_loss_.zero_();
  check_finite(met.loss_sum, "training");
  return met;
}

at::Tensor Trainer::summed_correct() {
  at::Tensor correct = epoch_correct_.sum().to(at::kLong);
  comm_->all_reduce(correct, ReduceOp::kSum, {"samples classified rightly"});
  comm_->wait(device_);
  return correct;
}

NamedTensors Trainer::optimizer_state() const {
  NamedTensors state;
  for (const auto& [name, value] : optimizer_.state()) {
    state.emplace_back("optimizer." + name, value);
  }
  return state;
}

NamedTensors Trainer::state() {
  NamedTensors state = replica_.state_dict();
  for (const auto& entry : optimizer_state()) state.push_back(entry);
  state.emplace_back("epoch.loss", epoch_loss_);
  state.emplace_back("epoch.correct", summed_correct());
  return state;
}

void Trainer::restore(const NamedTensors& state, int64_t step) {
  const std::map<std::string, at::Tensor> found(state.begin(), state.end());
  for (auto& [name, value] : this->state()) value.copy_(found.at(name));
  epoch_correct_.zero_();  // of all ranks, which rank 0 now holds
  if (comm_->rank() == 0) epoch_correct_[0].copy_(found.at("epoch.correct"));
  optimizer_.set_steps(step);
  step_ = step;
  summed_epoch_ = step == 0 ? -1 : (step - 1) / steps_per_epoch();
}

void Trainer::train_step(int64_t k) {
  StepContext context = context_of(sampler_.batch_size(k));
  context.groups = &grouping_.of(context.batch);
  context.step = step_;
  context.times = &times_;
  const int64_t n = context.rows.size();
  Stopwatch watch;

  at::Tensor& x = network_.input(n);  // (n, pixels)
  at::Tensor labels = labels_.narrow(0, 0, n);
  train_gather_(sampler_.samples(k, context.rows), n, x, labels, &augmentation_,
                k * batch_ + context.rows.begin);
  watch.lap(times_.data);

  const double comm_before = times_.norm_comm;
  const at::Tensor& logits = network_.forward(context);  // (n, classes)
  const double scale = 1.0 / static_cast<double>(context.batch);
  softmax_cross_entropy(logits, labels, *context.shards, scale, totals_,
                        network_.logits_gradient());
  watch.lap(times_.forward);
  const double comm_between = times_.norm_comm;
  network_.backward(context);
  watch.lap(times_.backward);
  times_.forward -= comm_between - comm_before;
  times_.backward -= times_.norm_comm - comm_between;

  replica_.reduce(totals_);
  step_loss_.copy_(replica_.loss());
  epoch_loss_.add_(step_loss_);
  met_loss_.add_(step_loss_);
  if (step_ == 0) first_loss_.copy_(step_loss_);
  epoch_correct_.add_(totals_.narrow(1, 1, 1));
  watch.lap(times_.gradient_comm);
  times_.gradient_traffic += replica_.traffic();
  optimizer_.step(rate_.at(step_));
  watch.lap(times_.optimizer);
  ++step_;
  pace();
}

// The host works ahead of a device by the call under way and no further, so that it is here that it
// waits for a rank that does not come, where the communicator looks for the reason, and not where a
// staging buffer is filled again.
void Trainer::pace() {
  marks_[turn_].set();
  turn_ = 1 - turn_;
  comm_->wait(marks_[turn_]);
}

void Trainer::check_finite(double loss, const char* which) const {
  if (std::isfinite(loss)) return;
  throw DivergedError(concat("the ", which, " loss is ", loss, " at step ", step_,
                             ": the run has diverged; lower train.lr (now ", rate_.at(step_ - 1),
                             "), clip the gradient with train.clip, or warm up with "
                             "train.warmup_steps"));
}

StepContext Trainer::context_of(int64_t batch) {
  StepContext context;
  context.batch = batch;
  context.rows = sharding_.rows(batch);
  const auto known = shard_rows_.find(batch);
  context.shards = known != shard_rows_.end()
                       ? &known->second
                       : &shard_rows_.emplace(batch, sharding_.shard_rows(batch)).first->second;
  return context;
}

}  // namespace syncbn
