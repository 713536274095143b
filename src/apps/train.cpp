// syncbn-train: trains one network as a configuration file and the command line say.
#include <iostream>
#include <string>

#include "base/options.hpp"
#include "comm/runtime.hpp"
#include "train/description.hpp"
#include "train/run.hpp"

namespace {

using namespace syncbn;

std::string joined(int argc, char** argv) {
  std::string command;
  for (int i = 0; i < argc; ++i) command += (i > 0 ? " " : "") + std::string(argv[i]);
  return command;
}

// Rank 0 reads the file and sends its text, so that all ranks parse the same.
std::string config_text(Runtime& runtime, const std::string& path) {
  std::string text;
  agree(*runtime.world(), [&] {
    if (runtime.rank() == 0 && !path.empty()) text = read_config(path);
  });
  return runtime.world()->gather_text(text).front();
}

int train(Runtime& runtime, int argc, char** argv) {
  const CommandLine line = parse_command_line(argc, argv);
  const bool speaks = runtime.rank() == 0;
  if (line.help || line.version) {
    if (speaks) std::cout << (line.help ? help_text("syncbn-train") : version_text());
    return 0;
  }
  const Options options = parse_options(line, config_text(runtime, line.config), line.config);
  agree_same(*runtime.world(), to_ini(options), "the options");
  if (line.print_config) {
    if (speaks) std::cout << to_ini(options);
    return 0;
  }
  run_training(runtime, options, line, joined(argc, argv));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return syncbn::guarded_main(argc, argv,
                              [&](syncbn::Runtime& runtime) { return train(runtime, argc, argv); });
}
