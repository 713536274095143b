// syncbn-train: trains one network as a configuration file and the command line say.
#include "train/program.hpp"
#include "train/run.hpp"
#include "train/self_check.hpp"

namespace {

using namespace syncbn;

int train(Runtime& runtime, int argc, char** argv) {
  auto line = read_command_line(runtime, argc, argv, train_program());
  if (!line) return 0;
  const auto options = read_options(runtime, *line, config_text(runtime, *line));
  if (!options) return 0;
  if (line->self_check) {
    self_check(runtime, *options);
  } else {
    run_training(runtime, *options, *line);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return syncbn::guarded_main(argc, argv,
                              [&](syncbn::Runtime& runtime) { return train(runtime, argc, argv); });
}
