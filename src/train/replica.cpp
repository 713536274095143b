#include "train/replica.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <string_view>

#include "base/digest.hpp"
#include "nn/shard_gradients.hpp"

namespace syncbn {
namespace {

constexpr int64_t kRequests = 2;

std::string digest_of(const at::Tensor& t) {
  const at::Tensor host = t.cpu().contiguous();
  return sha256(
      {{static_cast<const char*>(host.const_data_ptr()), static_cast<size_t>(host.nbytes())}});
}

std::string digests_of(const std::vector<std::pair<std::string, at::Tensor>>& entries) {
  std::string all;
  for (const auto& entry : entries) all += digest_of(entry.second);
  return all;
}

// "3f1a… on rank 0, 2; 07bc… on rank 1" of each rank's digest.
std::string by_digest(const std::vector<std::string_view>& digests) {
  constexpr size_t kShown = 12;
  std::string text;
  for (size_t r = 0; r < digests.size(); ++r) {
    if (std::find(digests.begin(), digests.begin() + r, digests[r]) != digests.begin() + r)
      continue;
    std::string ranks;
    for (size_t other = r; other < digests.size(); ++other) {
      if (digests[other] == digests[r]) ranks += concat(ranks.empty() ? "" : ", ", other);
    }
    text += concat(text.empty() ? "" : "; ", digests[r].substr(0, kShown), "… on rank ", ranks);
  }
  return text;
}

}  // namespace

Replica::Replica(Network& network, const Sharding& sharding, at::ScalarType dtype,
                 at::Device device, CommPtr comm)
    : network_(network), comm_(std::move(comm)), node_sums_(sharding.node_sums()) {
  int64_t parameters = 0, reduced = 0;
  for (const auto& layer : network.layers()) {
    for (const auto& spec : layer->parameters()) parameters += numel(spec);
    reduced += layer->reduced();
  }
  const auto options = at::TensorOptions(dtype).device(device);
  const int64_t loss = parameters + reduced, requests = loss + 1;
  parameters_ = at::zeros({parameters}, options);
  sums_.emplace(comm_, sharding, requests + kRequests, dtype, device);
  gradients_ = sums_->total().narrow(0, 0, parameters);
  loss_ = sums_->total().narrow(0, loss, 1);
  requests_ = sums_->total().narrow(0, requests, kRequests);
  requested_ = at::zeros({kRequests}, dtype);
  loss_parts_ = at::zeros({sharding.mine().size(), 1}, options);
  losses_ = places(loss, {1});

  int64_t offset = 0, reduced_offset = parameters;
  for (size_t i = 0; i < network.layers().size(); ++i) {
    Layer& layer = *network.layers()[i];
    Binding binding;
    binding.layer = static_cast<int>(i);
    binding.sharding = sharding;
    for (const auto& spec : layer.parameters()) {
      const at::Tensor view = parameters_.narrow(0, offset, numel(spec)).view(spec.shape);
      view.copy_(spec.initial);
      binding.parameters.push_back(view);
      binding.gradients.push_back(places(offset, spec.shape));
      named_parameters_.emplace_back(std::to_string(i) + "." + spec.name, view);
      if (spec.shape.size() > 1) weights_.push_back({offset, offset + numel(spec)});
      offset += numel(spec);
    }
    binding.reduced = places(reduced_offset, {layer.reduced()});
    reduced_offset += layer.reduced();
    layer.bind(binding);
  }
}

std::vector<at::Tensor> Replica::places(int64_t offset, const std::vector<int64_t>& shape) {
  const int64_t count = c10::multiply_integers(shape);
  std::vector<at::Tensor> views;
  for (size_t k = 0; k < node_sums_.size(); ++k) {
    views.push_back(sums_->nodes()[static_cast<int64_t>(k)].narrow(0, offset, count).view(shape));
  }
  return views;
}

void Replica::sum(const at::Tensor& totals) {
  loss_parts_.copy_(totals.narrow(1, 0, 1));
  sum_shards(node_sums_, loss_parts_, losses_);
  sums_->run({"gradients"});
}

void Replica::reduce(const at::Tensor& totals) {
  requests_.copy_(requested_, /*non_blocking=*/true);
  requested_.zero_();
  sum(totals);
  for (const auto& layer : network_.layers()) layer->after_reduce();
}

void Replica::request(Request what) {
  requested_[static_cast<int64_t>(what)] = 1;
}

bool Replica::requested(Request what) const {
  return requests_[static_cast<int64_t>(what)].item<double>() > 0;
}

double Replica::reduced_loss() const {
  comm_->wait(loss_.device());
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

std::string Replica::digests() const {
  return digests_of(state_dict());
}

void Replica::check_equal(const std::vector<std::pair<std::string, at::Tensor>>& others) const {
  auto entries = state_dict();
  entries.insert(entries.end(), others.begin(), others.end());
  const std::string mine = digests_of(entries);
  const auto all = comm_->gather_text(mine, {"digests of the models"});
  const size_t digits = mine.size() / std::max<size_t>(1, entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    std::vector<std::string_view> digests;
    for (const std::string& theirs : all) {
      digests.push_back(std::string_view(theirs).substr(i * digits, digits));
    }
    if (std::count(digests.begin(), digests.end(), digests[0]) == comm_->size()) continue;
    throw UsageError(concat("The ranks hold different models: tensor '", entries[i].first,
                            "', the first that differs, has SHA-256 ", by_digest(digests),
                            "; a rank's memory or link may be faulty."),
                     ExitCode::kInvariant);
  }
}

}  // namespace syncbn
