// Checkpoint files for tests in Python:
//   checkpoint_probe save FOLDER KEEP STEP FLOATS   saves one with a tensor of FLOATS times STEP
//   checkpoint_probe newest FOLDER                  prints its step, and warnings on stderr
//   checkpoint_probe show FILE                      prints any safetensors file: a line for each
//                                                   text, and each tensor with its values
// Prints an Error and ends with its code.
#include <ATen/ATen.h>

#include <cstdio>
#include <string>

#include "base/file.hpp"
#include "train/checkpoint.hpp"

namespace syncbn {
namespace {

void save(const std::string& folder, int64_t keep, int64_t step, int64_t floats) {
  const at::Tensor weights = at::full({floats}, static_cast<double>(step), at::kFloat);
  const Checkpoint checkpoint{
      step,
      {{"0.weight", weights}, {"1.num_batches_tracked", at::full({}, step, at::kLong)}},
      {{"train.batch", "64"}}};
  std::puts(CheckpointFolder(folder, keep).save(checkpoint).c_str());
}

void newest(const std::string& folder) {
  const auto found = CheckpointFolder(folder, 1).newest();
  for (const std::string& warning : found.warnings) std::fprintf(stderr, "%s\n", warning.c_str());
  std::puts(found.checkpoint ? std::to_string(found.checkpoint->step).c_str() : "none");
}

void show(const std::string& path) {
  const FileBytes file = read_regular_file(path, "file", 1 << 20, ExitCode::kInputDamaged);
  const TensorFile parsed =
      parse_safetensors({reinterpret_cast<const char*>(file.data.get()), file.size}, path);
  for (const auto& [key, text] : parsed.metadata) {
    std::puts(concat("text ", key, " ", text).c_str());
  }
  for (const auto& [name, value] : parsed.tensors) {
    const at::Tensor values = value.flatten().to(at::kDouble);
    std::string line = concat("tensor ", name, " ", value.scalar_type(), " ", value.sizes(), " :");
    for (int64_t i = 0; i < values.numel(); ++i) line += concat(" ", values[i].item<double>());
    std::puts(line.c_str());
  }
}

int run(const std::vector<std::string>& words) {
  try {
    if (words.size() == 5 && words[0] == "save") {
      save(words[1], std::stoll(words[2]), std::stoll(words[3]), std::stoll(words[4]));
    } else if (words.size() == 2 && words[0] == "newest") {
      newest(words[1]);
    } else if (words.size() == 2 && words[0] == "show") {
      show(words[1]);
    } else {
      throw Error("see the head of checkpoint_probe.cpp", ExitCode::kUsage);
    }
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}

}  // namespace
}  // namespace syncbn

int main(int argc, char** argv) {
  return syncbn::run(std::vector<std::string>(argv + 1, argv + argc));
}
