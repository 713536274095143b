#include "nn/activation.hpp"

#include <ATen/ATen.h>

#include <array>
#include <type_traits>

#include "base/error.hpp"
#include "base/random.hpp"

namespace syncbn {
namespace {

// One activation: how it maps x to y, and dy to dx given y.
struct Function {
  const char* type;
  void (*forward)(const at::Tensor& x, at::Tensor& y);
  void (*backward)(const at::Tensor& y, const at::Tensor& dy, at::Tensor& dx);
};

constexpr Function kRelu = {"ReLU",
                            [](const at::Tensor& x, at::Tensor& y) { at::clamp_min_out(y, x, 0); },
                            [](const at::Tensor& y, const at::Tensor& dy, at::Tensor& dx) {
                              at::threshold_backward_out(dx, dy, y, 0);
                            }};
constexpr Function kSigmoid = {"Sigmoid",
                               [](const at::Tensor& x, at::Tensor& y) { at::sigmoid_out(y, x); },
                               [](const at::Tensor& y, const at::Tensor& dy, at::Tensor& dx) {
                                 at::sigmoid_backward_out(dx, dy, y);
                               }};
constexpr Function kTanh = {"Tanh", [](const at::Tensor& x, at::Tensor& y) { at::tanh_out(y, x); },
                            [](const at::Tensor& y, const at::Tensor& dy, at::Tensor& dx) {
                              at::tanh_backward_out(dx, dy, y);
                            }};
constexpr Function kIdentity = {"ReLU", [](const at::Tensor&, at::Tensor&) {},
                                [](const at::Tensor&, const at::Tensor&, at::Tensor&) {}};

class Activation : public Layer {
 public:
  Activation(const Function& function, int64_t features)
      : function_(function), features_(features) {}
  std::string type() const override { return function_.type; }
  int64_t in_features() const override { return features_; }
  int64_t out_features() const override { return features_; }
  bool in_place() const override { return true; }
  void forward(const at::Tensor& x, at::Tensor& y, const StepContext&) override {
    function_.forward(x, y);
  }
  void backward(const at::Tensor&, const at::Tensor& y, at::Tensor& dy, at::Tensor& dx,
                const StepContext&) override {
    function_.backward(y, dy, dx);
  }

 private:
  const Function& function_;
  int64_t features_;
};

}  // namespace

std::unique_ptr<Layer> make_activation(const std::string& name, int64_t features) {
  const Function* function = name == "relu"      ? &kRelu
                             : name == "sigmoid" ? &kSigmoid
                             : name == "tanh"    ? &kTanh
                                                 : nullptr;
  SYNCBN_CHECK(function != nullptr, "unknown model.activation ", name);
  return std::make_unique<Activation>(*function, features);
}

std::unique_ptr<Layer> make_fused_relu(int64_t features) {
  return std::make_unique<Activation>(kIdentity, features);
}

void Dropout::make_mask(const at::Tensor& x, const StepContext& context) {
  const int64_t n = x.size(0);
  if (!mask_.defined() || mask_.size(0) < n) {
    mask_ = at::empty_like(x);
    host_mask_ = x.is_cpu() ? mask_ : at::empty(x.sizes(), x.options().device(at::kCPU));
  }
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
    fill(host_mask_.mutable_data_ptr<float>());
  } else {
    fill(host_mask_.mutable_data_ptr<double>());
  }
  if (!x.is_cpu()) mask_.narrow(0, 0, n).copy_(host_mask_.narrow(0, 0, n));
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
                       const StepContext&) {
  at::mul_out(dx, dy, mask_.narrow(0, 0, x.size(0)));
}

}  // namespace syncbn
