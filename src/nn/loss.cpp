#include "nn/loss.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace syncbn {
namespace {

template <class T>
void on_cpu(const at::Tensor& logits, const at::Tensor& labels, double scale, double* totals,
            T* gradient) {
  const int64_t n = logits.size(0), classes = logits.size(1);
  const T* row = logits.const_data_ptr<T>();
  const auto* label = labels.const_data_ptr<int64_t>();
  double loss = 0;
  int64_t correct = 0;
  for (int64_t i = 0; i < n; ++i, row += classes) {
    const T* largest = std::max_element(row, row + classes);
    const T top = *largest, picked = row[label[i]];
    correct += largest - row == label[i];
    T sum = 0;
    for (int64_t c = 0; c < classes; ++c) sum += std::exp(row[c] - top);
    loss += static_cast<double>(top - picked) + std::log(static_cast<double>(sum));
    if (gradient == nullptr) continue;
    const T factor = static_cast<T>(scale) / sum;
    for (int64_t c = 0; c < classes; ++c) gradient[c] = std::exp(row[c] - top) * factor;
    gradient[label[i]] -= static_cast<T>(scale);
    gradient += classes;
  }
  totals[0] = loss;
  totals[1] = static_cast<double>(correct);
}

}  // namespace

void softmax_cross_entropy(const at::Tensor& logits, const at::Tensor& labels, double scale,
                           at::Tensor& totals, at::Tensor& dlogits) {
  if (logits.is_cpu()) {
    auto* out = totals.mutable_data_ptr<double>();
    const bool wanted = dlogits.defined();
    if (logits.scalar_type() == at::kFloat) {
      on_cpu(logits, labels, scale, out, wanted ? dlogits.mutable_data_ptr<float>() : nullptr);
    } else {
      on_cpu(logits, labels, scale, out, wanted ? dlogits.mutable_data_ptr<double>() : nullptr);
    }
    return;
  }
  if (logits.size(0) == 0) {
    totals.zero_();
    return;
  }
  const at::Tensor index = labels.unsqueeze(1);
  const at::Tensor log_probability = at::log_softmax(logits, 1);
  totals[0].copy_(log_probability.gather(1, index).sum(at::kDouble).neg());
  totals[1].copy_(logits.argmax(1).eq(labels).sum());
  if (dlogits.defined()) {
    const at::Tensor gradient = log_probability.exp().mul_(scale);
    gradient.scatter_add_(1, index, at::full_like(index, -scale, gradient.options()));
    dlogits.copy_(gradient);
  }
}

}  // namespace syncbn
