#include "nn/network.hpp"

#include <ATen/ATen.h>

#include <iomanip>
#include <sstream>

#include "nn/activation.hpp"
#include "nn/linear.hpp"

namespace syncbn {
namespace {

std::string with_commas(int64_t number) {
  std::string text = std::to_string(number);
  for (auto i = static_cast<int64_t>(text.size()) - 3; i > 0; i -= 3) {
    text.insert(static_cast<size_t>(i), ",");
  }
  return text;
}

int64_t trainable_parameters(const Layer& layer) {
  int64_t count = 0;
  for (const auto& parameter : layer.parameters()) count += numel(parameter);
  return count;
}

// Running statistics; the counter of batches is no parameter.
int64_t fixed_parameters(const Layer& layer) {
  int64_t count = 0;
  for (const auto& buffer : layer.buffers()) {
    if (buffer.value.dim() > 0) count += buffer.value.numel();
  }
  return count;
}

}  // namespace

Network::Network(const ModelOptions& model, const NormOptions& norm, const NetworkShape& shape,
                 const NetworkSeeds& seeds)
    : shape_(shape) {
  int64_t features = shape.inputs;
  uint64_t depth = 0;  // Linear layers so far: with and without norm they begin alike
  const auto add_linear = [&](int64_t out) {
    add(std::make_unique<Linear>(features, out,
                                 initial_linear(features, out, model, seeds.init, depth)));
    features = out;
    ++depth;
  };
  for (const int64_t hidden : parse_sizes("model.hidden", model.hidden)) {
    add_linear(hidden);
    add_norm_and_activation(model, norm, hidden);
    if (model.dropout > 0) {
      add(std::make_unique<Dropout>(hidden, model.dropout, seeds.dropout, depth));
    }
  }
  add_linear(shape.classes);
  if (norm.output) {
    add(make_norm(norm, features, Activation::kNone, shape.dtype, shape.device));
  }

  const auto buffer = [&](int64_t width) {
    return at::zeros({shape.capacity, width}, at::TensorOptions(shape.dtype).device(shape.device));
  };
  values_.push_back(buffer(shape.inputs));
  for (const auto& layer : layers_) {
    values_.push_back(layer->in_place() ? values_.back() : buffer(layer->out_features()));
  }
  gradients_.resize(values_.size());  // the input's stays undefined: nobody wants it
  gradients_.back() = buffer(shape.classes);
  for (size_t i = layers_.size() - 1; i > 0; --i) {
    gradients_[i] =
        layers_[i]->gradient_in_place() ? gradients_[i + 1] : buffer(layers_[i]->in_features());
  }
  value_views_ = values_;
  gradient_views_ = gradients_;
}

void Network::add(std::unique_ptr<Layer> layer) {
  if (layer != nullptr) layers_.push_back(std::move(layer));
}

void Network::add_norm_and_activation(const ModelOptions& model, const NormOptions& norm,
                                      int64_t features) {
  const Activation activation = activation_named(model.activation);
  const bool before = norm.position == "pre";
  const Activation fused = before ? fusible(norm, activation) : Activation::kNone;
  auto layer = make_norm(norm, features, fused, shape_.dtype, shape_.device);
  if (before) add(std::move(layer));
  add(make_activation(activation, features, /*applied=*/fused != Activation::kNone));
  if (!before) add(std::move(layer));
}

std::vector<BatchNorm*> Network::batch_norms() const {
  std::vector<BatchNorm*> norms;
  for (const auto& layer : layers_) {
    if (auto* norm = dynamic_cast<BatchNorm*>(layer.get())) norms.push_back(norm);
  }
  return norms;
}

at::Tensor& Network::input(int64_t rows) {
  SYNCBN_CHECK(rows >= 0 && rows <= shape_.capacity, rows, " rows, made for ", shape_.capacity);
  if (rows != rows_) {
    rows_ = rows;
    for (size_t i = 0; i < values_.size(); ++i) {
      value_views_[i] = values_[i].narrow(0, 0, rows);
      if (gradients_[i].defined()) gradient_views_[i] = gradients_[i].narrow(0, 0, rows);
    }
  }
  return value_views_.front();
}

at::Tensor& Network::forward(const StepContext& context) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i]->forward(value_views_[i], value_views_[i + 1], context);
  }
  return value_views_.back();
}

void Network::backward(const StepContext& context, const Look& look) {
  for (size_t i = layers_.size(); i-- > 0;) {
    if (look) look(i, false);
    layers_[i]->backward(value_views_[i], value_views_[i + 1], gradient_views_[i + 1],
                         gradient_views_[i], context);
    if (look) look(i, true);
  }
}

std::string Network::table() const {
  std::ostringstream out;
  const auto line = [&](const std::string& layer, const std::string& shape,
                        const std::string& count) {
    out << "  " << std::left << std::setw(22) << layer << std::setw(20) << shape << std::right
        << std::setw(12) << count << '\n';
  };
  line("Layer (type)", "Output shape", "Parameters");
  out << "  " << std::string(54, '-') << '\n';
  int64_t trainable = 0, fixed = 0;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = *layers_[i];
    const int64_t own = trainable_parameters(layer), buffers = fixed_parameters(layer);
    line(std::to_string(i) + " (" + layer.type() + ")",
         "(n, " + std::to_string(layer.out_features()) + ")", with_commas(own + buffers));
    trainable += own;
    fixed += buffers;
  }
  out << "  " << std::string(54, '-') << '\n'
      << "  Total parameters: " << with_commas(trainable + fixed) << '\n'
      << "  Trainable: " << with_commas(trainable) << '\n'
      << "  Not trainable (running statistics): " << with_commas(fixed) << '\n';
  return out.str();
}

}  // namespace syncbn
