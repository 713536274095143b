#include "nn/loss.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace syncbn {
namespace {

template <class T>
void on_cpu(const at::Tensor& logits, const at::Tensor& labels, Range rows, double scale,
            double* totals, T* gradient) {
  const int64_t classes = logits.size(1);
  const T* row = logits.const_data_ptr<T>() + rows.begin * classes;
  const auto* label = labels.const_data_ptr<int64_t>();
  if (gradient != nullptr) gradient += rows.begin * classes;
  double loss = 0;
  int64_t correct = 0;
  for (int64_t i = rows.begin; i < rows.end; ++i, row += classes) {
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

void on_device(const at::Tensor& logits, const at::Tensor& labels, Range rows, double scale,
               at::Tensor totals, at::Tensor dlogits) {
  if (rows.size() == 0) {
    totals.zero_();
    return;
  }
  const at::Tensor own = logits.narrow(0, rows.begin, rows.size());
  const at::Tensor label = labels.narrow(0, rows.begin, rows.size());
  const at::Tensor index = label.unsqueeze(1);
  const at::Tensor log_probability = at::log_softmax(own, 1);
  totals[0].copy_(log_probability.gather(1, index).sum(at::kDouble).neg());
  totals[1].copy_(own.argmax(1).eq(label).sum());
  if (dlogits.defined()) {
    const at::Tensor gradient = log_probability.exp().mul_(scale);
    gradient.scatter_add_(1, index, at::full_like(index, -scale, gradient.options()));
    dlogits.narrow(0, rows.begin, rows.size()).copy_(gradient);
  }
}

}  // namespace

void softmax_cross_entropy(const at::Tensor& logits, const at::Tensor& labels,
                           const std::vector<Range>& rows, double scale, at::Tensor& totals,
                           at::Tensor& dlogits) {
  const bool wanted = dlogits.defined();
  for (size_t s = 0; s < rows.size(); ++s) {
    if (!logits.is_cpu()) {
      on_device(logits, labels, rows[s], scale, totals[static_cast<int64_t>(s)], dlogits);
      continue;
    }
    auto* out = totals.mutable_data_ptr<double>() + 2 * s;
    if (logits.scalar_type() == at::kFloat) {
      on_cpu(logits, labels, rows[s], scale, out,
             wanted ? dlogits.mutable_data_ptr<float>() : nullptr);
    } else {
      on_cpu(logits, labels, rows[s], scale, out,
             wanted ? dlogits.mutable_data_ptr<double>() : nullptr);
    }
  }
}

}  // namespace syncbn
