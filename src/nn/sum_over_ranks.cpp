#include "nn/sum_over_ranks.hpp"

#include <ATen/ATen.h>

#include "base/error.hpp"
#include "nn/saved_communicator.hpp"

namespace syncbn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct SumOverRanks : public torch::autograd::Function<SumOverRanks> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& t, const CommPtr& comm) {
    at::Tensor total = t.clone(at::MemoryFormat::Contiguous);
    comm->all_reduce(total, ReduceOp::kSum, {"a sum that is differentiated"});
    save_communicator(*context, comm);
    return total;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    return {sum_over_ranks(gradients[0], saved_communicator(*context)), {}};
  }
};

}  // namespace

at::Tensor sum_over_ranks(const at::Tensor& t, const CommPtr& comm) {
  if (!comm) throw Error("sum_over_ranks expected a communicator, found null.");
  return SumOverRanks::apply(t, comm);
}

}  // namespace syncbn
