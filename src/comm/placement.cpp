#include "comm/placement.hpp"

#include <algorithm>
#include <map>
#include <sstream>

#include "comm/cuda_device.hpp"
#include "comm/nccl_communicator.hpp"

namespace syncbn {
namespace {

size_t device_index(const RankFacts& facts) {
  return static_cast<size_t>(facts.local_rank) % facts.devices.size();
}

std::string device_text(const RankFacts& facts, bool cuda) {
  if (!cuda) return facts.host + ": cpu";
  const size_t index = device_index(facts);
  return concat(facts.host, ": cuda:", index, " (", facts.devices[index].name, ")");
}

/// "node7's NVIDIA driver serves CUDA 12.4, …": of the first rank that has one; may be empty.
std::string first_obstacle(const std::vector<RankFacts>& ranks) {
  for (const auto& facts : ranks) {
    if (!facts.obstacle.empty()) return concat(facts.host, "'s ", facts.obstacle);
  }
  return "";
}

/// "rank 0 node7: cuda:0 (NVIDIA H200); rank 1 node7: no device".
std::string mapping(const std::vector<RankFacts>& ranks) {
  std::string text;
  for (size_t r = 0; r < ranks.size(); ++r) {
    text += concat(
        r == 0 ? "" : "; ", "rank ", r, " on ",
        ranks[r].devices.empty() ? ranks[r].host + ": no device" : device_text(ranks[r], true));
  }
  return text;
}

/// "ranks 0 and 2", the first two that compute on one GPU; empty if each has its own.
std::string sharing_ranks(const std::vector<RankFacts>& ranks) {
  std::map<std::string, size_t> owner;
  for (size_t r = 0; r < ranks.size(); ++r) {
    const auto& device = ranks[r].devices[device_index(ranks[r])];
    const auto [first, fresh] = owner.emplace(ranks[r].host + ' ' + device.bus_id, r);
    if (!fresh) return concat("ranks ", first->second, " and ", r);
  }
  return "";
}

bool choose_cuda(const std::vector<RankFacts>& ranks, const std::string& device,
                 const std::string& backend) {
  bool everywhere = true;
  for (const auto& facts : ranks) everywhere = everywhere && !facts.devices.empty();
  if (!everywhere && (device == "cuda" || backend == "nccl")) {
    const std::string reason = first_obstacle(ranks);
    throw UsageError(concat("run.device ", device, " with run.backend ", backend,
                            " needs a CUDA device for every rank, and there is: ", mapping(ranks),
                            reason.empty() ? "" : " (" + reason + ")",
                            ". Use run.device cpu with run.backend mpi, or other nodes."),
                     ExitCode::kUnavailable);
  }
  if (device == "cpu" && backend == "nccl") {
    throw UsageError("NCCL moves CUDA tensors only: run.backend nccl needs run.device cuda.",
                     ExitCode::kUnavailable);
  }
  return everywhere && device != "cpu";
}

/// Why NCCL cannot serve these ranks; empty if it can.
std::string nccl_obstacle(const std::vector<RankFacts>& ranks, bool have_nccl) {
  if (!have_nccl) return "this build has no NCCL";
  const std::string sharing = sharing_ranks(ranks);
  return sharing.empty() ? "" : sharing + " share a GPU, which NCCL does not serve";
}

void require_known(const std::string& key, const std::string& value, const std::string& special) {
  if (value == "auto" || special.find(" " + value + " ") != std::string::npos) return;
  throw UsageError(concat(key, " is '", value, "', and must be one of: auto", special));
}

std::string encode(const RankFacts& facts) {
  std::string text = concat(facts.host, '\n', facts.local_rank, '\n', facts.obstacle, '\n');
  for (const auto& device : facts.devices) text += device.bus_id + '\n' + device.name + '\n';
  return text;
}

RankFacts decode(const std::string& text) {
  std::istringstream in(text);
  RankFacts facts;
  std::getline(in, facts.host);
  std::string line, name;
  std::getline(in, line);
  facts.local_rank = std::stoi(line);
  std::getline(in, facts.obstacle);
  while (std::getline(in, line) && std::getline(in, name)) facts.devices.push_back({line, name});
  return facts;
}

std::string version_text(int version) {
  return concat(version / 1000, '.', version % 1000 / 10);
}

}  // namespace

std::string cuda_obstacle(const cuda::Facts& facts) {
  if (facts.driver == 0 || facts.runtime == 0) return "";
  if (facts.driver / 1000 < facts.runtime / 1000) {
    return concat("NVIDIA driver serves CUDA ", version_text(facts.driver),
                  " at most, and this build needs CUDA ", version_text(facts.runtime),
                  facts.runtime / 1000 == 13 ? ": driver r580 or newer" : "");
  }
  return facts.failure.empty() ? "" : "CUDA fails: " + facts.failure;
}

Placement plan_placement(const std::vector<RankFacts>& ranks, int rank, const std::string& device,
                         const std::string& backend, bool have_nccl) {
  require_known("run.device", device, " cpu cuda ");
  require_known("run.backend", backend, " mpi nccl ");
  Placement placement;
  const bool cuda = choose_cuda(ranks, device, backend);
  if (cuda) {
    const auto index = device_index(ranks[static_cast<size_t>(rank)]);
    placement.device = at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
  }
  for (const auto& facts : ranks) placement.rank_devices.push_back(device_text(facts, cuda));
  const auto has_device = [](const RankFacts& facts) { return !facts.devices.empty(); };
  if (!cuda && device == "auto") {
    const std::string obstacle = first_obstacle(ranks);
    if (!obstacle.empty()) {
      placement.note = concat("all ranks compute on the CPU, because ", obstacle, ".");
    } else if (std::any_of(ranks.begin(), ranks.end(), has_device)) {
      placement.note = "all ranks compute on the CPU, because some of them see no GPU.";
    }
  }
  if (!cuda || backend == "mpi") return placement;

  const std::string obstacle = nccl_obstacle(ranks, have_nccl);
  if (obstacle.empty()) {
    placement.backend = "nccl";
  } else if (backend == "nccl") {
    throw UsageError(concat("run.backend nccl cannot be used: ", obstacle, " (", mapping(ranks),
                            "). Use run.backend mpi, or one rank per GPU."),
                     ExitCode::kUnavailable);
  } else {
    placement.note = concat("CUDA tensors go through host memory and MPI, because ", obstacle, ".");
  }
  return placement;
}

Placement choose_placement(Runtime& runtime, const std::string& device,
                           const std::string& backend) {
  RankFacts own{runtime.host(), runtime.local_rank(), {}, ""};
  // CUDA is not even looked for when the CPU was asked for: looking costs seconds and memory.
  if (device != "cpu") own.obstacle = cuda_obstacle(cuda::facts());
  const int visible = device == "cpu" || !own.obstacle.empty() ? 0 : cuda::device_count();
  for (int d = 0; d < visible; ++d) {
    own.devices.push_back({cuda::bus_id(d), cuda::device_name(d)});
  }
  std::vector<RankFacts> ranks;
  for (const auto& text : runtime.world()->gather_text(encode(own), {"devices of the ranks"}))
    ranks.push_back(decode(text));
  const bool have_nccl = cuda::nccl_version() != "none";
  Placement placement = plan_placement(ranks, runtime.rank(), device, backend, have_nccl);
  if (placement.device.is_cuda()) cuda::set_device(placement.device.index());
  return placement;
}

CommPtr make_communicator(Runtime& runtime, const Placement& placement, double limit_s) {
  if (placement.backend != "nccl") return runtime.world();
  return make_nccl_communicator(runtime.world(), placement.device, limit_s);
}

}  // namespace syncbn
