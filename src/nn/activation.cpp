#include "nn/activation.hpp"

#include <ATen/ATen.h>

#include <array>
#include <type_traits>

#include "base/error.hpp"
#include "base/random.hpp"

namespace syncbn {
namespace {

class ActivationLayer : public Layer {
 public:
  ActivationLayer(Activation activation, int64_t features, bool applied)
      : activation_(activation),
        applied_(applied ? Activation::kNone : activation),
        features_(features) {}
  std::string type() const override {
    return activation_ == Activation::kRelu      ? "ReLU"
           : activation_ == Activation::kSigmoid ? "Sigmoid"
                                                 : "Tanh";
  }
  int64_t in_features() const override { return features_; }
  int64_t out_features() const override { return features_; }
  bool in_place() const override { return true; }
  void forward(const at::Tensor& x, at::Tensor& y, const StepContext&) override {
    activate(applied_, x, y);
  }
  void backward(const at::Tensor&, const at::Tensor& y, at::Tensor& dy, at::Tensor& dx,
                const StepContext&) override {
    activation_gradient(applied_, y, dy, dx);
  }

 private:
  Activation activation_, applied_;  // what it stands for, and what is left to do of it
  int64_t features_;
};

}  // namespace

Activation activation_named(const std::string& name) {
  if (name == "relu") return Activation::kRelu;
  if (name == "sigmoid") return Activation::kSigmoid;
  SYNCBN_CHECK(name == "tanh", "unknown model.activation ", name);
  return Activation::kTanh;
}

void activate(Activation activation, const at::Tensor& x, at::Tensor& y) {
  switch (activation) {
    case Activation::kNone:
      break;
    case Activation::kRelu:
      at::clamp_min_out(y, x, 0);
      break;
    case Activation::kSigmoid:
      at::sigmoid_out(y, x);
      break;
    case Activation::kTanh:
      at::tanh_out(y, x);
      break;
  }
}

void activation_gradient(Activation activation, const at::Tensor& y, const at::Tensor& dy,
                         at::Tensor& dx) {
  switch (activation) {
    case Activation::kNone:
      break;
    case Activation::kRelu:
      at::threshold_backward_out(dx, dy, y, 0);
      break;
    case Activation::kSigmoid:
      at::sigmoid_backward_out(dx, dy, y);
      break;
    case Activation::kTanh:
      at::tanh_backward_out(dx, dy, y);
      break;
  }
}

std::unique_ptr<Layer> make_activation(Activation activation, int64_t features, bool applied) {
  return std::make_unique<ActivationLayer>(activation, features, applied);
}

void Dropout::make_mask(const at::Tensor& x, const StepContext& context) {
  const int64_t n = x.size(0);
  if (!mask_.defined() || mask_.size(0) < n) {
    mask_ = at::empty_like(x);
    if (!x.is_cpu()) {
      staging_ = std::make_unique<HostStaging>(x.sizes(), x.scalar_type(), x.device());
    }
  }
  at::Tensor& host_mask = staging_ ? staging_->to_fill() : mask_;
  // One Philox block serves four neighbouring units.
  const RandomStream random(seed_, Stream::kDropout,
                            (index_ << 48) ^ static_cast<uint64_t>(context.step));
  const auto threshold = static_cast<uint64_t>(probability_ * 0x1.0p32);
  const double kept = 1 / (1 - probability_);
  const auto fill = [&](auto* mask) {
    using T = std::remove_pointer_t<decltype(mask)>;
    const uint64_t blocks = static_cast<uint64_t>(features_ + 3) / 4;
    for (int64_t i = 0; i < n; ++i) {
      const auto sample = static_cast<uint64_t>(context.rows.begin + i);
      std::array<uint32_t, 4> block{};
      for (int64_t c = 0; c < features_; ++c) {
        const auto unit = static_cast<uint64_t>(c);
        if (unit % 4 == 0) block = random.block(sample * blocks + unit / 4);
        mask[i * features_ + c] = block[unit % 4] < threshold ? T(0) : static_cast<T>(kept);
      }
    }
  };
  if (x.scalar_type() == at::kFloat) {
    fill(host_mask.mutable_data_ptr<float>());
  } else {
    fill(host_mask.mutable_data_ptr<double>());
  }
  if (staging_) {
    at::Tensor used = mask_.narrow(0, 0, n);
    staging_->send(used);
  }
}

void Dropout::forward(const at::Tensor& x, at::Tensor& y, const StepContext& context) {
  if (!context.training) {
    y.copy_(x);
    return;
  }
  make_mask(x, context);
  at::mul_out(y, x, mask_.narrow(0, 0, x.size(0)));
}

void Dropout::backward(const at::Tensor& x, const at::Tensor&, at::Tensor& dy, at::Tensor& dx,
                       const StepContext& context) {
  if (!context.training) {
    dx.copy_(dy);
    return;
  }
  at::mul_out(dx, dy, mask_.narrow(0, 0, x.size(0)));
}

}  // namespace syncbn
