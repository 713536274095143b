// A study, from its file to its folder.
#pragma once

#include <string>

#include "base/options.hpp"
#include "comm/runtime.hpp"

namespace syncbn {

/// What syncbn-study's command line may hold: the keys of trainings and of studies.
ProgramOptions study_program();

/// Collective over the runtime's world. Plans the study that `text`, the file line.config, and the
/// command line describe, and runs those of its trials that its folder does not hold finished; with
/// --dry-run it prints the plan and the time that it should take. Throws UsageError on all ranks:
/// for what a user can mend, and kStopped when a signal asked to stop.
void run_study(Runtime& runtime, const CommandLine& line, const std::string& text);

}  // namespace syncbn
