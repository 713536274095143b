// syncbn-study: runs the trials of a study that a configuration file describes.
#include "study/run_study.hpp"
#include "train/program.hpp"

namespace {

using namespace syncbn;

int study(Runtime& runtime, int argc, char** argv) {
  auto line = read_command_line(runtime, argc, argv, study_program());
  if (!line) return 0;
  const std::string text = config_text(runtime, *line);
  run_study(runtime, *line, text);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return syncbn::guarded_main(argc, argv,
                              [&](syncbn::Runtime& runtime) { return study(runtime, argc, argv); });
}
