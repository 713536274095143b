// What every program does before its own work: the command line and the options, the same on all
// ranks, and the questions that are answered at once (--help, --version, --print-config).
#pragma once

#include <optional>
#include <string>

#include "base/options.hpp"
#include "comm/contract.hpp"
#include "comm/runtime.hpp"

namespace syncbn {

/// Collective. The command line, its flags and --config alike on all ranks; nothing if it asked for
/// --help or --version, which rank 0 has then printed. From here on the watchdog watches everything
/// that the program does, until its options are known by SYNCBN_START_TIMEOUT. Throws UsageError on
/// all ranks: 64, or 76 if the programs, the flags or the paths of --config differ.
std::optional<CommandLine> read_command_line(Runtime& runtime, int argc, char** argv,
                                             const ProgramOptions& program);

/// Collective. The text of the configuration file, which rank 0 alone reads and sends, so that all
/// parse the same; "" without one. With --resume and no --config, line.config becomes the
/// config.ini of the folder that --run.out names. Throws UsageError on all ranks as `read_config`
/// does, and 66 if that folder has none.
std::string config_text(Runtime& runtime, CommandLine& line);

/// Collective. The options of `line` and of its configuration file's text, the same on all ranks;
/// nothing if it asked for --print-config, and rank 0 has then printed them. Collectives are
/// compared by `check_rule` from here on. Throws UsageError on all ranks: 64 or 78 as
/// `parse_options` does, 64 for --resume without run.out, 76 if the options differ.
std::optional<Options> read_options(Runtime& runtime, const CommandLine& line,
                                    const std::string& config);

/// How often the ranks' collectives are compared, by run.check and run.check_steps.
CheckRule check_rule(const RunOptions& options);

}  // namespace syncbn
