#include "train/weights.hpp"

#include <ATen/ATen.h>

#include <map>

#include "base/digest.hpp"
#include "base/file.hpp"
#include "base/options_text.hpp"
#include "train/checkpoint.hpp"

namespace syncbn {
namespace {

constexpr uint64_t kLargestFile = uint64_t{16} << 30;  // what is read whole must fit in memory

using Tensors = std::map<std::string, at::Tensor>;

FileBytes read_weights(const std::string& path) {
  return read_regular_file(path, "the file of model.weights", kLargestFile,
                           ExitCode::kInputDamaged);
}

std::string_view view(const FileBytes& file) {
  return {reinterpret_cast<const char*>(file.data.get()), file.size};
}

// The model in a file: all of its tensors, or those of a checkpoint that are of the model.
Tensors model_in(std::string_view bytes, const std::string& path) {
  TensorFile file = parse_safetensors(bytes, path);
  if (file.metadata.count("checkpoint.format") == 0) {
    return {file.tensors.begin(), file.tensors.end()};
  }
  const Checkpoint checkpoint = from_bytes(bytes, path);  // verifies its digest
  Tensors model;
  for (const auto& [name, value] : checkpoint.tensors) {
    const std::string section = name.substr(0, name.find('.'));
    if (section != "optimizer" && section != "epoch" && section != "best") model[name] = value;
  }
  return model;
}

std::string kind_of(const at::Tensor& tensor) {
  return concat(tensor.is_floating_point() ? "" : "integers ", tensor.sizes());
}

void check_model(Tensors found, const NamedTensors& expected, const std::string& path) {
  std::vector<std::string> differences;
  for (const auto& [name, value] : expected) {
    const auto tensor = found.find(name);
    if (tensor == found.end()) {
      differences.push_back(concat(name, " is missing, expected ", kind_of(value)));
      continue;
    }
    if (kind_of(tensor->second) != kind_of(value)) {
      differences.push_back(
          concat(name, " is ", kind_of(tensor->second), ", expected ", kind_of(value)));
    } else if (!value.is_floating_point() && value.numel() > 0 &&
               tensor->second.min().item<int64_t>() < 0) {
      differences.push_back(concat(name, " is below 0, expected a count"));
    }
    found.erase(tensor);
  }
  for (const auto& [name, value] : found) {
    differences.push_back(concat(quoted(name), ", ", kind_of(value), ", is not expected"));
  }
  if (differences.empty()) return;
  throw Error(
      concat("model.weights: the tensors of '", path,
             "' are not those of the model that the options describe: ", list_of(differences), "."),
      ExitCode::kInputDamaged);
}

}  // namespace

std::string load_weights(Communicator& world, const std::string& path, Replica& replica) {
  const NamedTensors model = replica.state_dict();
  Tensors read;
  std::string digest;
  agree(world, {"reading the weights"}, [&] {
    if (world.rank() != 0) return;
    const FileBytes file = read_weights(path);
    const std::string_view bytes = view(file);
    read = model_in(bytes, path);
    check_model(read, model, path);
    digest = sha256({bytes});
  });
  for (auto& [name, value] : model) {
    at::Tensor host = world.rank() == 0 ? read.at(name).to(value.scalar_type())
                                        : at::empty(value.sizes(), value.scalar_type());
    world.broadcast(host, 0, {"the weights"});
    at::Tensor(value).copy_(host);
  }
  return world.gather_text(digest, {"the digest of the weights"}).front();
}

std::string digest_of_weights(const std::string& path) {
  const FileBytes file = read_weights(path);
  return sha256({view(file)});
}

}  // namespace syncbn
