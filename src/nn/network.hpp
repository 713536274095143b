// The network: a multilayer perceptron as a list of layers, and the buffers between them.
//
// Its layers are those of torch.nn.Sequential(Linear, BatchNorm1d, ReLU, …) in that order, so that
// parameter names ("0.weight", "1.running_mean") are PyTorch's. Per hidden layer:
//   Linear, [norm if position = pre], activation, [norm if position = post], [Dropout]
// and at the end Linear, [norm if norm.output].
//
// Buffers are made once for `capacity` rows; a call works on the first n ≤ capacity of them.
#pragma once

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

class Network {
 public:
  /// Initial weights are a pure function of the options and `seed`.
  Network(const ModelOptions& model, const NormOptions& norm, const NetworkShape& shape,
          uint64_t seed);

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
  /// Writes all parameter gradients. Collective as forward.
  void backward(const StepContext& context);

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
