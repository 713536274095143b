// A job in which the last rank's collective is not the others': `contract_probe WAY`. contract_test
// runs it under mpiexec and looks at how it ends.
#include <ATen/ATen.h>

#include "comm/contract.hpp"
#include "comm/runtime.hpp"

namespace syncbn {
namespace {

constexpr Purpose kGradients{"gradients"};

void take(Communicator& comm, uint64_t calls) {
  at::Tensor t = at::zeros({8}, at::kFloat);
  for (uint64_t n = 0; n < calls; ++n) comm.all_reduce(t, ReduceOp::kSum, kGradients);
}

int probe(Runtime& runtime, const std::string& way) {
  const bool odd = runtime.rank() == runtime.size() - 1;
  CommPtr comm = runtime.world();
  if (way == "part") {  // of which the job's first rank is not
    comm = comm->split(runtime.rank() == 0 ? -1 : 0, 0);
    if (comm == nullptr) {
      runtime.world()->barrier();
      return 0;
    }
  }
  at::Tensor t = at::zeros({odd && way == "count" ? 9 : 8}, at::kFloat);
  if (way == "count") comm->all_reduce(t, ReduceOp::kSum, kGradients);
  if (way == "op" || way == "part") {
    comm->all_reduce(t, odd ? ReduceOp::kMax : ReduceOp::kSum, kGradients);
  }
  if (way == "kind" && odd) comm->broadcast(t, 0, {"weights"});
  if (way == "kind" && !odd) comm->all_reduce(t, ReduceOp::kSum, kGradients);
  if (way == "skipped" && !odd) comm->all_reduce(t, ReduceOp::kSum, {"losses"});
  if (way == "light") {
    take(*comm, Contract::kFirst);
    comm->all_reduce(t, odd ? ReduceOp::kMax : ReduceOp::kSum, kGradients);
  }
  if (way == "light count") {
    take(*comm, Contract::kFirst);
    at::Tensor other = at::zeros({odd ? 900 : 800}, at::kFloat);
    comm->all_reduce(other, ReduceOp::kSum, kGradients);
  }
  take(*comm, 2000);
  runtime.world()->barrier();
  return 0;
}

}  // namespace
}  // namespace syncbn

int main(int argc, char** argv) {
  std::string way = argc > 1 ? argv[1] : "";
  for (int i = 2; i < argc; ++i) way += std::string(" ") + argv[i];
  return syncbn::guarded_main(
      argc, argv, [&](syncbn::Runtime& runtime) { return syncbn::probe(runtime, way); });
}
