// The network: a multilayer perceptron as a list of layers, and the buffers between them.
//
// Its layers are those of torch.nn.Sequential(Linear, BatchNorm1d, ReLU, …) in that order, so that
// parameter names ("0.weight", "1.running_mean") are PyTorch's. Per hidden layer:
//   Linear, [norm if position = pre], activation, [norm if position = post], [Dropout]
// and at the end Linear, [norm if norm.output].
//
// Buffers are made once for `capacity` rows; a call works on the first n ≤ capacity of them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/options.hpp"
#include "nn/layer.hpp"
#include "nn/norm.hpp"

namespace syncbn {

struct NetworkShape {
  int64_t inputs = 784, classes = 10;
  int64_t capacity = 0;  ///< most rows of one call
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
};

struct NetworkSeeds {
  uint64_t init = 0, dropout = 0;
};

class Network {
 public:
  /// Initial weights are a pure function of the options and seeds.init; the k-th Linear begins with
  /// the same ones whatever norm and dropout lie between.
  Network(const ModelOptions& model, const NormOptions& norm, const NetworkShape& shape,
          const NetworkSeeds& seeds);

  const std::vector<std::unique_ptr<Layer>>& layers() const { return layers_; }
  /// The batch-norm layers among them, in order.
  std::vector<BatchNorm*> batch_norms() const;

  /// Sets the number of rows of the next calls and returns the input buffer (n, inputs) to fill.
  at::Tensor& input(int64_t rows);
  /// input() → logits (n, classes). Collective when context.statistics is kBatch and a norm is
  /// there.
  at::Tensor& forward(const StepContext& context);
  /// The buffer (n, classes) for the gradient of the logits, to fill before backward.
  at::Tensor& logits_gradient() { return gradient_views_.back(); }
  /// Writes all parameter gradients. Collective as forward. `look`, if given, is called before and
  /// after each layer's part.
  using Look = std::function<void(size_t layer, bool done)>;
  void backward(const StepContext& context, const Look& look = {});

  /// (n, in) that layer i received in the last forward, or what it made of it where it works in
  /// place; for i = layers().size() the logits.
  const at::Tensor& value(size_t i) const { return value_views_[i]; }
  /// The buffer of value(i)'s gradient, which a layer may hand on as its own; undefined for i = 0.
  const at::Tensor& gradient(size_t i) const { return gradient_views_[i]; }

  /// The layers as Keras prints them: type, output shape, parameters; totals, trainable or not.
  std::string table() const;

 private:
  void add(std::unique_ptr<Layer> layer);
  void add_norm_and_activation(const ModelOptions& model, const NormOptions& norm,
                               int64_t features);

  NetworkShape shape_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<at::Tensor> values_, gradients_;            // (capacity, features) around each layer
  std::vector<at::Tensor> value_views_, gradient_views_;  // their first n rows
  int64_t rows_ = -1;
};

}  // namespace syncbn
