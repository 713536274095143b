#include "train/optimizer.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "nn/sum_loops.hpp"

namespace syncbn {
namespace {

constexpr bool kMaximize = false, kAmsgrad = false;
constexpr double kDampening = 0;
constexpr double kTiny = 1e-6;  // PyTorch's, in clip_grad_norm_

}  // namespace

Optimizer::Optimizer(const TrainOptions& options, at::Tensor parameters, at::Tensor gradients)
    : options_(options) {
  if (options.optimizer != "sgd" || options.momentum != 0) {
    average_ = {at::zeros_like(parameters)};
  }
  if (options.optimizer != "sgd") {
    squared_average_ = {at::zeros_like(parameters)};
    steps_ = {at::zeros({}, parameters.options().dtype(at::kFloat))};
  }
  if (options.clip > 0) {
    clip_ = at::full({}, options.clip, parameters.options());
    tiny_ = at::full({}, kTiny, parameters.options());
    factor_ = at::empty({}, parameters.options());
  }
  parameters_ = {std::move(parameters)};
  gradients_ = {std::move(gradients)};
}

// min(1, clip/(norm + tiny)); of tensors throughout, because arithmetic with a number makes one.
void Optimizer::clip() {
  const at::Tensor& gradient = gradients_[0];
  if (!gradient.is_cpu()) {
    at::linalg_vector_norm_out(factor_, gradient, 2);
  } else if (gradient.scalar_type() == at::kFloat) {
    factor_.fill_(std::sqrt(loops::square_sum(gradient.const_data_ptr<float>(), gradient.numel())));
  } else {
    factor_.fill_(
        std::sqrt(loops::square_sum(gradient.const_data_ptr<double>(), gradient.numel())));
  }
  at::div_out(factor_, clip_, factor_.add_(tiny_));
  gradients_[0].mul_(factor_.clamp_max_(1));
}

void Optimizer::step(double lr) {
  if (options_.clip > 0) clip();
  if (options_.optimizer == "sgd") {
    at::_fused_sgd_(parameters_, gradients_, average_, options_.weight_decay, options_.momentum, lr,
                    kDampening, options_.nesterov, kMaximize, /*is_first_step=*/taken_++ == 0);
    return;
  }
  steps_[0].fill_(++taken_);
  const auto& o = options_;
  if (o.optimizer == "adam") {
    at::_fused_adam_(parameters_, gradients_, average_, squared_average_, {}, steps_, lr, o.beta1,
                     o.beta2, o.weight_decay, o.adam_eps, kAmsgrad, kMaximize);
  } else {
    at::_fused_adamw_(parameters_, gradients_, average_, squared_average_, {}, steps_, lr, o.beta1,
                      o.beta2, o.weight_decay, o.adam_eps, kAmsgrad, kMaximize);
  }
}

std::vector<std::pair<std::string, at::Tensor>> Optimizer::state() const {
  if (average_.empty()) return {};
  if (squared_average_.empty()) return {{"momentum_buffer", average_[0]}};
  return {{"exp_avg", average_[0]}, {"exp_avg_sq", squared_average_[0]}};
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
