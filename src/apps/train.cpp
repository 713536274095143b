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

// What the ranks must agree on before one of them stops early or writes.
std::string flags_text(const CommandLine& line) {
  return concat("--help: ", line.help, "\n--version: ", line.version,
                "\n--print-config: ", line.print_config, "\n--dry-run: ", line.dry_run,
                "\n--overwrite: ", line.overwrite, "\n");
}

// Each option under its full name, for the message about the ones that differ.
std::string options_text(const Options& options) {
  std::string text;
  for_each_option(options, [&](const std::string& key, const auto&, const char*) {
    text += concat(key, " = ", get_option(options, key), "\n");
  });
  return text;
}

int train(Runtime& runtime, int argc, char** argv) {
  Communicator& world = *runtime.world();
  CommandLine line;
  agree(world, [&] { line = parse_command_line(argc, argv); });
  agree_same(world, flags_text(line), "the command line");
  const bool speaks = runtime.rank() == 0;
  if (line.help || line.version) {
    if (speaks) std::cout << (line.help ? help_text("syncbn-train") : version_text());
    return 0;
  }
  const std::string config = config_text(runtime, line.config);
  Options options;
  agree(world, [&] { options = parse_options(line, config, line.config); });
  agree_same(world, options_text(options), "the options");
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
