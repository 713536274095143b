#include "nn/linear.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "base/random.hpp"
#include "nn/one_thread.hpp"

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

namespace {

// Below so many rows a matrix library may use kernels whose sums depend on the alignment of their
// operands, so a shard's product has at least as many (measured on an AMD EPYC: 1 to 3 rows do).
constexpr int64_t kLeastRows = 16;

// Two orders of a sum agree by chance in many elements of a small product: a trial looks at so many
// numbers, in so many draws at most.
constexpr int64_t kTrialNumbers = 1 << 17, kFewestDraws = 2, kMostDraws = 64;

}  // namespace

// One shard after the other, on one thread, in copies that always lie alike.
void Linear::by_shards(const at::Tensor& in, const std::vector<Range>& shards,
                       const Product& product, Scratch& scratch, at::Tensor& out) const {
  const OneThread one_thread;
  for (const Range rows : shards) {
    const int64_t padded = std::max(rows.size(), kLeastRows);
    if (!scratch.in.defined() || scratch.in.size(0) < padded) {
      scratch.in = at::zeros({padded, in.size(1)}, in.options());
      scratch.out = at::zeros({padded, out.size(1)}, out.options());
    }
    const at::Tensor from = scratch.in.narrow(0, 0, padded);
    at::Tensor to = scratch.out.narrow(0, 0, padded);
    from.narrow(0, 0, rows.size()).copy_(in.narrow(0, rows.begin, rows.size()));
    product(from, weights_, to);
    out.narrow(0, rows.begin, rows.size()).copy_(to.narrow(0, 0, rows.size()));
  }
}

bool Linear::same_at_once(const at::Tensor& like_in, const at::Tensor& like_out,
                          const std::vector<Range>& shards, const Product& product,
                          Scratch& scratch) const {
  at::Tensor expected = at::zeros_like(like_out), found = at::zeros_like(like_out);
  const int64_t numbers = std::max<int64_t>(1, like_out.numel());
  const int64_t draws = std::clamp(kTrialNumbers / numbers, kFewestDraws, kMostDraws);
  // Random weights in the very place of the real ones, whose alignment may matter.
  const at::Tensor kept = weights_.weight.clone();
  weights_.weight.normal_();
  bool same = true;
  for (int64_t draw = 0; draw < draws && same; ++draw) {
    const at::Tensor in = at::randn_like(like_in);
    by_shards(in, shards, product, scratch, expected);
    product(in, weights_, found);
    same = found.equal(expected);
  }
  weights_.weight.copy_(kept);
  return same;
}

void Linear::multiply(const at::Tensor& in, const std::vector<Range>& shards,
                      const Product& product, Scratch& scratch, at::Tensor& out) {
  bool at_once = true;
  if (canonical_) {
    const auto [known, fresh] = scratch.at_once.try_emplace(&shards, false);
    if (fresh) known->second = same_at_once(in, out, shards, product, scratch);
    at_once = known->second;
  }
  if (at_once) {
    product(in, weights_, out);
  } else {
    by_shards(in, shards, product, scratch, out);
  }
}

void Linear::forward(const at::Tensor& x, at::Tensor& y, const StepContext& context) {
  const auto product = [](const at::Tensor& in, const Weights& weights, at::Tensor& out) {
    at::addmm_out(out, weights.bias, in, weights.weight_t);
  };
  multiply(x, *context.shards, product, forward_, y);
}

void Linear::backward(const at::Tensor& x, const at::Tensor&, at::Tensor& dy, at::Tensor& dx,
                      const StepContext& context) {
  const std::vector<Range>& shards = *context.shards;
  (*weight_gradient_)(dy, x, shards, weight_gradients_);
  column_sums(dy, shards, bias_parts_);
  sum_shards(sums_, bias_parts_, bias_gradients_);
  if (!dx.defined()) return;
  const auto product = [](const at::Tensor& in, const Weights& weights, at::Tensor& out) {
    at::mm_out(out, in, weights.weight);
  };
  multiply(dy, shards, product, backward_, dx);
}

std::vector<ParameterSpec> Linear::parameters() const {
  return {{"weight", {out_, in_}, init_.weight}, {"bias", {out_}, init_.bias}};
}

void Linear::bind(const Binding& binding) {
  weights_ = {binding.parameters[0], binding.parameters[0].t(), binding.parameters[1]};
  weight_gradients_ = binding.gradients[0];
  bias_gradients_ = binding.gradients[1];
  weight_gradient_.emplace(binding.sharding);
  canonical_ = binding.sharding.canonical;
  sums_ = binding.sharding.node_sums();
  bias_parts_ = at::empty({binding.sharding.mine().size(), out_}, weights_.bias.options());
  init_ = {};
}

}  // namespace syncbn
