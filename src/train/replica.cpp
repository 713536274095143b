#include "train/replica.hpp"

#include <ATen/ATen.h>

#include <sstream>
#include <string_view>

namespace syncbn {
namespace {

size_t hash_bytes(const at::Tensor& t) {
  const at::Tensor host = t.cpu().contiguous();
  return std::hash<std::string_view>{}(
      {static_cast<const char*>(host.const_data_ptr()), static_cast<size_t>(host.nbytes())});
}

}  // namespace

Replica::Replica(Network& network, at::ScalarType dtype, at::Device device, CommPtr comm)
    : network_(network), comm_(std::move(comm)) {
  int64_t parameters = 0, reduced = 0;
  for (const auto& layer : network.layers()) {
    for (const auto& spec : layer->parameters()) parameters += numel(spec);
    reduced += layer->reduced();
  }
  const auto options = at::TensorOptions(dtype).device(device);
  parameters_ = at::zeros({parameters}, options);
  sums_ = at::zeros({parameters + reduced + 1}, options);
  gradients_ = sums_.narrow(0, 0, parameters);
  loss_ = sums_.narrow(0, parameters + reduced, 1);

  int64_t offset = 0, reduced_offset = parameters;
  for (size_t i = 0; i < network.layers().size(); ++i) {
    Layer& layer = *network.layers()[i];
    Binding binding;
    for (const auto& spec : layer.parameters()) {
      const at::Tensor view = parameters_.narrow(0, offset, numel(spec)).view(spec.shape);
      view.copy_(spec.initial);
      binding.parameters.push_back(view);
      binding.gradients.push_back(gradients_.narrow(0, offset, numel(spec)).view(spec.shape));
      named_parameters_.emplace_back(std::to_string(i) + "." + spec.name, view);
      offset += numel(spec);
    }
    binding.reduced = sums_.narrow(0, reduced_offset, layer.reduced());
    reduced_offset += layer.reduced();
    layer.bind(binding);
  }
}

void Replica::reduce(const at::Tensor& loss) {
  loss_.copy_(loss);
  comm_->all_reduce(sums_);
  for (const auto& layer : network_.layers()) layer->after_reduce();
}

double Replica::reduced_loss() const {
  return loss_.item<double>();
}

std::vector<std::pair<std::string, at::Tensor>> Replica::state_dict() const {
  auto entries = named_parameters_;
  for (size_t i = 0; i < network_.layers().size(); ++i) {
    for (const auto& buffer : network_.layers()[i]->buffers()) {
      entries.emplace_back(std::to_string(i) + "." + buffer.name, buffer.value);
    }
  }
  return entries;
}

void Replica::check_equal() const {
  std::ostringstream digest;
  for (const auto& [name, value] : state_dict()) digest << name << ' ' << hash_bytes(value) << '\n';
  try {
    agree_same(*comm_, digest.str(), "the model (digests of its tensors)");
  } catch (const UsageError& error) {
    throw UsageError(error.what(), ExitCode::kInvariant);
  }
}

}  // namespace syncbn
