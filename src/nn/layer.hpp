// The layer: a function that knows its own derivative and works in buffers made once.
//
// A layer owns no parameter storage: it says what it needs (`parameters`, `buffers`, `reduced`),
// and train/replica.hpp binds it to views of the flat tensors. All matrices are contiguous (n,
// features) of the run's dtype on its device; n may be 0 and may change from call to call up to the
// capacity that the network was made for.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/accumulate.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/sharding.hpp"
#include "nn/stats_groups.hpp"

namespace syncbn {

/// Where norm layers take mean and variance from.
enum class Statistics {
  kBatch,   ///< of the batch's statistics groups; collective
  kRunning  ///< the running averages; no communication
};

/// Seconds that one rank spent, by what for, and what it handed to collectives; filled by whoever
/// does it.
struct StepTimes {
  double data = 0, forward = 0, backward = 0, norm_comm = 0, gradient_comm = 0, optimizer = 0;
  Traffic norm_traffic, gradient_traffic;
};

/// What a layer may need to know about the step; the same on all ranks but for `rows`.
struct StepContext {
  bool training = true;  ///< dropout, and contributions to running statistics
  bool collect = false;  ///< norm layers pool moments for recomputed statistics
  Statistics statistics = Statistics::kBatch;
  const StatsGroups* groups = nullptr;  ///< of this batch; needed for kBatch
  int64_t batch = 0;                    ///< samples in the global batch
  Range rows;                           ///< this rank's rows of the global batch
  /// Of each of this rank's shards, within this rank's rows. Its address stands for its values.
  const std::vector<Range>* shards = nullptr;
  int64_t step = 0;            ///< global step, the counter of dropout's masks
  StepTimes* times = nullptr;  ///< may be null
};

struct ParameterSpec {
  std::string name;  ///< "weight", "bias"
  std::vector<int64_t> shape;
  at::Tensor initial;  ///< CPU, float64: the same on every rank
};

/// Elements of the parameter.
inline int64_t numel(const ParameterSpec& spec) {
  return c10::multiply_integers(spec.shape);
}

/// State that is saved but not trained, under its state_dict name.
struct BufferSpec {
  std::string name;  ///< "running_mean", …
  at::Tensor value;
};

/// What `Replica` gives a layer: views, in the order in which the layer asked.
struct Binding {
  int layer = -1;  ///< its place in the network, which begins its parameters' names
  Sharding sharding;
  std::vector<at::Tensor> parameters;
  /// For each parameter its gradient's places, one per node of sharding.node_sums().
  std::vector<std::vector<at::Tensor>> gradients;
  /// (reduced()) numbers per node that are summed over shards with the gradient; the first place
  /// then holds their total.
  std::vector<at::Tensor> reduced;
};

class Layer {
 public:
  virtual ~Layer() = default;

  /// Type as PyTorch names it: "Linear", "BatchNorm1d", "ReLU".
  virtual std::string type() const = 0;
  virtual int64_t in_features() const = 0;
  virtual int64_t out_features() const = 0;
  /// y may be the same memory as x (activations): the network then gives both one buffer.
  virtual bool in_place() const { return false; }
  /// dx may be the same memory as dy: true for everything elementwise.
  virtual bool gradient_in_place() const { return true; }

  /// x (n, in) → y (n, out).
  virtual void forward(const at::Tensor& x, at::Tensor& y, const StepContext& context) = 0;
  /// x, y as forward left them; dy (n, out) may be overwritten → dx (n, in), and the gradient
  /// places. dx undefined: not wanted (the first layer). Gradients are written, not added to: each
  /// a sum over shards as nn/shard_gradients.hpp has it.
  virtual void backward(const at::Tensor& x, const at::Tensor& y, at::Tensor& dy, at::Tensor& dx,
                        const StepContext& context) = 0;

  virtual std::vector<ParameterSpec> parameters() const { return {}; }
  virtual std::vector<BufferSpec> buffers() const { return {}; }
  virtual int64_t reduced() const { return 0; }
  virtual void bind(const Binding&) {}
  /// After the gradients are summed: fold the reduced numbers into the buffers.
  virtual void after_reduce() {}
};

}  // namespace syncbn
