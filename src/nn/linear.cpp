#include "nn/linear.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "base/random.hpp"

namespace syncbn {
namespace {

at::Tensor uniform(const std::vector<int64_t>& shape, double bound, const RandomStream& random,
                   uint64_t first) {
  at::Tensor t = at::empty(shape, at::kDouble);
  auto* values = t.mutable_data_ptr<double>();
  for (int64_t i = 0; i < t.numel(); ++i) {
    values[i] = (2 * random.uniform(first + static_cast<uint64_t>(i)) - 1) * bound;
  }
  return t;
}

at::Tensor normal(const std::vector<int64_t>& shape, double deviation, const RandomStream& random) {
  at::Tensor t = at::empty(shape, at::kDouble);
  auto* values = t.mutable_data_ptr<double>();
  for (int64_t i = 0; i < t.numel(); ++i) {
    values[i] = random.normal(static_cast<uint64_t>(i)) * deviation;
  }
  return t;
}

}  // namespace

LinearInit initial_linear(int64_t in, int64_t out, const ModelOptions& options, uint64_t seed,
                          uint64_t index) {
  const RandomStream random(seed, Stream::kInit, index);
  const auto fan_in = static_cast<double>(in), fan_out = static_cast<double>(out);
  if (options.init == "torch") {
    const double bound = 1 / std::sqrt(fan_in);
    return {uniform({out, in}, bound, random, 0),
            uniform({out}, bound, random, static_cast<uint64_t>(in * out))};
  }
  at::Tensor bias = at::zeros({out}, at::kDouble);
  if (options.init == "he") return {normal({out, in}, std::sqrt(2 / fan_in), random), bias};
  if (options.init == "glorot") {
    return {uniform({out, in}, std::sqrt(6 / (fan_in + fan_out)), random, 0), bias};
  }
  SYNCBN_CHECK(options.init == "normal", "unknown model.init ", options.init);
  return {normal({out, in}, options.init_std, random), bias};
}

void Linear::forward(const at::Tensor& x, at::Tensor& y, const StepContext&) {
  at::addmm_out(y, bias_, x, weight_t_);
}

void Linear::backward(const at::Tensor& x, const at::Tensor&, at::Tensor& dy, at::Tensor& dx,
                      const StepContext&) {
  at::mm_out(weight_gradient_, dy.t(), x);
  at::sum_out(bias_gradient_, dy, {0});
  if (dx.defined()) at::mm_out(dx, dy, weight_);
}

std::vector<ParameterSpec> Linear::parameters() const {
  return {{"weight", {out_, in_}, init_.weight}, {"bias", {out_}, init_.bias}};
}

void Linear::bind(const Binding& binding) {
  weight_ = binding.parameters[0];
  weight_t_ = weight_.t();
  bias_ = binding.parameters[1];
  weight_gradient_ = binding.gradients[0];
  bias_gradient_ = binding.gradients[1];
  init_ = {};
}

}  // namespace syncbn
