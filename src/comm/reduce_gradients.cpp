#include "comm/reduce_gradients.hpp"

#include <ATen/ATen.h>
#include <ATen/MemoryOverlap.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <sstream>
#include <string>
#include <utility>

#include "base/digest.hpp"

namespace syncbn {
namespace {

/// The place of `device` among those met so far, in the parameters' order: a rank's devices have
/// numbers of their own.
size_t place_of(at::Device device, std::vector<at::Device>& met) {
  const auto place = std::find(met.begin(), met.end(), device) - met.begin();
  if (place == static_cast<std::ptrdiff_t>(met.size())) met.push_back(device);
  return static_cast<size_t>(place);
}

/// A line per parameter. Gradients can be summed where every rank has the same text.
std::string describe_gradients(const std::vector<at::Tensor>& parameters) {
  std::ostringstream lines;
  std::vector<at::Device> devices;
  for (const at::Tensor& parameter : parameters) {
    const at::Tensor& gradient = parameter.grad();
    if (!gradient.defined()) {
      lines << "no gradient of " << parameter.sizes() << '\n';
    } else {
      lines << "a " << (gradient.layout() == at::kStrided ? "" : "sparse ") << "gradient of "
            << gradient.scalar_type() << ' ' << gradient.sizes();
      const size_t place = place_of(gradient.device(), devices);
      if (place > 0) lines << " on another device (" << place << ')';
      lines << '\n';
    }
  }
  return lines.str();
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// Collective. Throws on every rank alike.
[[noreturn]] void name_the_difference(const std::vector<at::Tensor>& parameters,
                                      const std::string& own, Communicator& comm) {
  std::vector<std::vector<std::string>> ranks;
  for (const std::string& text : comm.gather_text(own, {"how gradients differ"}))
    ranks.push_back(lines_of(text));
  for (size_t r = 1; r < ranks.size(); ++r) {
    if (ranks[r].size() == ranks[0].size()) continue;
    throw UsageError(
        concat("reduce_gradients expected the same parameters on every rank, found ",
               ranks[0].size(), " on rank 0 and ", ranks[r].size(), " on rank ", r, "."),
        ExitCode::kDisagree);
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    std::map<std::string, std::string> holders;  // what → the ranks that have it
    for (size_t r = 0; r < ranks.size(); ++r) {
      std::string& list = holders[ranks[r][i]];
      list += concat(list.empty() ? "rank " : ", ", r);
    }
    if (holders.size() == 1) continue;
    std::string found;
    for (const auto& [what, list] : holders) {
      found += concat(found.empty() ? "" : "; ", what, " on ", list);
    }
    throw UsageError(
        concat("reduce_gradients expected parameter ", i, " of ", parameters.size(),
               " to have a gradient on all ranks or on none, and one alike; found ", found,
               ". Let every rank's loss depend on the same parameters (0 times an "
               "output will do), or freeze them on all."),
        ExitCode::kDisagree);
  }
  throw Error("reduce_gradients: the ranks' gradients differed, and then did not.");
}

/// Collective. The gradients are alike on all ranks after this.
void check_alike(const std::vector<at::Tensor>& parameters, Communicator& comm) {
  if (comm.size() == 1) return;
  const std::string own = describe_gradients(parameters);
  const auto digests = comm.gather_text(sha256({own}), {"whether gradients are alike"});
  const auto alike = std::count(digests.begin(), digests.end(), digests[0]);
  if (alike != comm.size()) name_the_difference(parameters, own, comm);
}

/// float16 and bfloat16 are summed in float32.
at::ScalarType sum_dtype(at::ScalarType type) {
  return type == at::kHalf || type == at::kBFloat16 ? at::kFloat : type;
}

void check_summable(const std::vector<at::Tensor>& parameters) {
  for (size_t i = 0; i < parameters.size(); ++i) {
    const at::Tensor& gradient = parameters[i].grad();
    if (!gradient.defined()) continue;
    const at::ScalarType type = sum_dtype(gradient.scalar_type());
    if (gradient.layout() == at::kStrided && (type == at::kFloat || type == at::kDouble)) continue;
    throw UsageError(concat("reduce_gradients sums dense gradients of float16, bfloat16, float32 "
                            "and float64; that of parameter ",
                            i, " of ", parameters.size(), ", of shape ", parameters[i].sizes(),
                            ", is ", gradient.layout(), " of ", gradient.scalar_type(),
                            ". Reduce it apart, as dense real numbers."),
                     ExitCode::kInvariant);
  }
}

void sum_flat(const std::vector<at::Tensor>& owners, at::ScalarType dtype, Communicator& comm) {
  int64_t elements = 0;
  for (const at::Tensor& owner : owners) elements += owner.grad().numel();
  at::Tensor flat = at::empty({elements}, owners[0].grad().options().dtype(dtype));
  const auto for_each_part = [&](auto&& f) {
    int64_t begin = 0;
    for (const at::Tensor& owner : owners) {
      at::Tensor& gradient = owner.mutable_grad();
      f(gradient, flat.narrow(0, begin, gradient.numel()).view(gradient.sizes()));
      begin += gradient.numel();
    }
  };
  for_each_part([](at::Tensor& gradient, at::Tensor part) { part.copy_(gradient); });
  comm.all_reduce(flat, ReduceOp::kSum, {"gradients"});
  for_each_part([](at::Tensor& gradient, const at::Tensor& part) {
    if (at::has_internal_overlap(gradient) == at::MemOverlap::Yes) {  // expanded: cannot be written
      gradient = part.to(gradient.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
    } else {
      gradient.copy_(part);
    }
  });
}

}  // namespace

void reduce_gradients(const std::vector<at::Tensor>& parameters, const CommPtr& comm) {
  if (!comm) throw Error("reduce_gradients expected a communicator, found null.");
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (!parameters[i].defined()) {
      throw Error(concat("reduce_gradients: parameter ", i, " of ", parameters.size(),
                         " is an undefined tensor."));
    }
  }
  check_alike(parameters, *comm);
  check_summable(parameters);
  if (comm->size() == 1) return;
  const c10::AutoGradMode no_gradient(false);
  std::map<std::pair<at::ScalarType, size_t>, std::vector<at::Tensor>> groups;
  std::vector<at::Device> devices;
  for (const at::Tensor& parameter : parameters) {
    const at::Tensor& gradient = parameter.grad();
    if (!gradient.defined()) continue;
    groups[{sum_dtype(gradient.scalar_type()), place_of(gradient.device(), devices)}].push_back(
        parameter);
  }
  for (const auto& [group, owners] : groups) sum_flat(owners, group.first, *comm);
}

}  // namespace syncbn
