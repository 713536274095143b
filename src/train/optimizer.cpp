#include "train/optimizer.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "nn/sum_loops.hpp"

namespace syncbn {
namespace {

constexpr bool kMaximize = false, kAmsgrad = false;
constexpr double kDampening = 0;
constexpr double kTiny = 1e-6;  // PyTorch's, in clip_grad_norm_

/// What of [0, size) the parts, in increasing order, leave out.
std::vector<Range> between(const std::vector<Range>& parts, int64_t size) {
  std::vector<Range> others;
  int64_t begin = 0;
  for (const Range& part : parts) {
    if (begin < part.begin) others.push_back({begin, part.begin});
    begin = part.end;
  }
  if (begin < size) others.push_back({begin, size});
  return others;
}

}  // namespace

Optimizer::Optimizer(const TrainOptions& options, const at::Tensor& parameters,
                     const at::Tensor& gradients, const std::vector<Range>& weights)
    : options_(options), parameters_(parameters), gradients_(gradients) {
  if (options.optimizer != "sgd" || options.momentum != 0) average_ = at::zeros_like(parameters);
  if (options.optimizer != "sgd") {
    squared_average_ = at::zeros_like(parameters);
    steps_ = at::zeros({}, parameters.options().dtype(at::kFloat));
  }
  if (options.clip > 0) {
    // A limit above all that the type holds clips nothing.
    const double largest = parameters.scalar_type() == at::kFloat
                               ? static_cast<double>(std::numeric_limits<float>::max())
                               : std::numeric_limits<double>::max();
    clip_ = at::full({}, std::min(options.clip, largest), parameters.options());
    tiny_ = at::full({}, kTiny, parameters.options());
    factor_ = at::empty({}, parameters.options());
  }
  if (options.decay == "all" || options.weight_decay == 0) {
    add_group(options.weight_decay, {{0, parameters.numel()}});
  } else {
    add_group(options.weight_decay, weights);
    add_group(0, between(weights, parameters.numel()));
  }
}

void Optimizer::add_group(double decay, const std::vector<Range>& parts) {
  Group group{decay, {}, {}, {}, {}, {}};
  for (const Range& part : parts) {
    const auto add = [&](std::vector<at::Tensor>& views, const at::Tensor& flat) {
      if (flat.defined()) views.push_back(flat.narrow(0, part.begin, part.size()));
    };
    add(group.parameters, parameters_);
    add(group.gradients, gradients_);
    add(group.average, average_);
    add(group.squared_average, squared_average_);
    if (steps_.defined()) group.steps.push_back(steps_);  // one count, which the kernels only read
  }
  if (!parts.empty()) groups_.push_back(std::move(group));
}

// min(1, clip/(norm + tiny)); of tensors throughout, because arithmetic with a number makes one.
void Optimizer::clip() {
  const at::Tensor& gradient = gradients_;
  if (!gradient.is_cpu()) {
    at::linalg_vector_norm_out(factor_, gradient, 2);
  } else if (gradient.scalar_type() == at::kFloat) {
    factor_.fill_(std::sqrt(loops::square_sum(gradient.const_data_ptr<float>(), gradient.numel())));
  } else {
    factor_.fill_(
        std::sqrt(loops::square_sum(gradient.const_data_ptr<double>(), gradient.numel())));
  }
  at::div_out(factor_, clip_, factor_.add_(tiny_));
  gradients_.mul_(factor_.clamp_max_(1));
}

void Optimizer::step(double lr) {
  if (options_.clip > 0) clip();
  const auto& o = options_;
  const bool first = taken_++ == 0;
  if (steps_.defined()) steps_.fill_(taken_);
  for (Group& g : groups_) {
    if (o.optimizer == "sgd") {
      at::_fused_sgd_(g.parameters, g.gradients, g.average, g.decay, o.momentum, lr, kDampening,
                      o.nesterov, kMaximize, first);
    } else if (o.optimizer == "adam") {
      at::_fused_adam_(g.parameters, g.gradients, g.average, g.squared_average, {}, g.steps, lr,
                       o.beta1, o.beta2, g.decay, o.adam_eps, kAmsgrad, kMaximize);
    } else {
      at::_fused_adamw_(g.parameters, g.gradients, g.average, g.squared_average, {}, g.steps, lr,
                        o.beta1, o.beta2, g.decay, o.adam_eps, kAmsgrad, kMaximize);
    }
  }
}

std::vector<std::pair<std::string, at::Tensor>> Optimizer::state() const {
  if (!average_.defined()) return {};
  if (!squared_average_.defined()) return {{"momentum_buffer", average_}};
  return {{"exp_avg", average_}, {"exp_avg_sq", squared_average_}};
}

LearningRate::LearningRate(const TrainOptions& options, int64_t batch, int64_t steps_per_epoch)
    : options_(options), base_(scaled_rate(options, batch)), steps_per_epoch_(steps_per_epoch) {
  if (options.schedule == "step") {
    milestones_ = parse_sizes("train.milestones", options.milestones);
  }
}

double LearningRate::at(int64_t step) const {
  if (step < options_.warmup_steps) {
    return base_ * static_cast<double>(step + 1) / static_cast<double>(options_.warmup_steps);
  }
  if (options_.schedule == "cosine") {
    constexpr double kPi = 3.14159265358979323846;
    const auto total = static_cast<double>(options_.epochs * steps_per_epoch_);
    return base_ * (1 + std::cos(kPi * static_cast<double>(step) / total)) / 2;
  }
  double rate = base_;
  for (const int64_t milestone : milestones_) {
    if (step >= milestone * steps_per_epoch_) rate *= options_.gamma;
  }
  return rate;
}

}  // namespace syncbn
