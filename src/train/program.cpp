#include "train/program.hpp"

#include <filesystem>
#include <iostream>

#include "comm/watchdog.hpp"
#include "train/description.hpp"

namespace syncbn {
namespace {

// What the ranks must agree on before one of them stops early or writes. The configuration by its
// path: hosts may have copies of it, of which rank 0's counts.
std::string line_text(const CommandLine& line) {
  std::string text = line.config.empty() ? "no --config" : "--config " + line.config;
  text += "\n";
  for_each_flag(line, [&](const char* name, bool value, const char*) {
    text += concat("--", name, ": ", value, "\n");
  });
  return text;
}

// Each option under its full name, for the message about the ones that differ.
std::string options_text(const Options& options) {
  std::string text;
  for_each_option(options, [&](const std::string& key, const auto&, const char*) {
    text += concat(key, " = ", get_option(options, key), "\n");
  });
  return text;
}

// The configuration that a run was begun with; "" without a folder, which `read_options` refuses.
std::string config_of_run(const CommandLine& line) {
  for (const auto& [key, value] : line.settings) {
    if (key != "run.out") continue;
    std::error_code ignored;
    const std::string path = value + "/config.ini";
    if (std::filesystem::exists(path, ignored)) return path;
    throw UsageError(concat("--resume: ", quoted(value), " holds no run (no config.ini); correct ",
                            "--run.out, or name with --config what the run is to begin with"),
                     ExitCode::kInputMissing);
  }
  return "";
}

void print_once(const Runtime& runtime, const std::string& text) {
  if (runtime.rank() == 0) std::cout << text;
}

}  // namespace

std::optional<CommandLine> read_command_line(Runtime& runtime, int argc, char** argv,
                                             const ProgramOptions& program) {
  runtime.watchdog().set_limit(start_limit_s(), Watched::kEverything);
  runtime.watchdog().beat("reading the command line");
  agree_same(*runtime.world(), program.name, "the program that they run");
  CommandLine line;
  agree(*runtime.world(), {"reading the command line"},
        [&] { line = parse_command_line(argc, argv, program); });
  agree_same(*runtime.world(), line_text(line), "the command line");
  if (!line.help && !line.version) return line;
  print_once(runtime, line.help ? help_text(program) : version_text());
  return std::nullopt;
}

std::string config_text(Runtime& runtime, CommandLine& line) {
  if (line.resume && line.config.empty()) {
    std::string own;
    agree(*runtime.world(), {"looking for the run"}, [&] {
      if (runtime.rank() == 0) own = config_of_run(line);
    });
    line.config = runtime.world()->gather_text(own, {"the configuration file's name"}).front();
  }
  runtime.watchdog().beat("reading the configuration file");
  std::string text;
  agree(*runtime.world(), {"reading the configuration file"}, [&] {
    if (runtime.rank() == 0 && !line.config.empty()) text = read_config(line.config);
  });
  return runtime.world()->gather_text(text, {"the configuration file"}).front();
}

// A step has a collective or more of each communicator, so that none is compared more seldom than
// run.check_steps says.
CheckRule check_rule(const RunOptions& options) {
  CheckRule rule;
  rule.full = options.check == "full";
  if (options.check_steps > 0) rule.every = options.check_steps;
  return rule;
}

std::optional<Options> read_options(Runtime& runtime, const CommandLine& line,
                                    const std::string& config) {
  runtime.watchdog().beat("reading the options");
  Options options;
  agree(*runtime.world(), {"parsing the options"}, [&] {
    options = parse_options(line, config, line.config);
    if (line.resume && options.run.out.empty()) {
      throw UsageError("--resume goes on with the run in a folder: name it with --run.out");
    }
  });
  agree_same(*runtime.world(), options_text(options), "the options");
  runtime.world()->check_collectives(check_rule(options.run));
  if (!line.print_config) return options;
  print_once(runtime, to_ini(options));
  return std::nullopt;
}

}  // namespace syncbn
