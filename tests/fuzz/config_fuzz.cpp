// Any text as the configuration of a training and as a study file. What is accepted must be written
// to a text that reads back to the same, and the cells of a small study must be countable.
#include "base/options.hpp"
#include "fuzz.hpp"
#include "study/study_file.hpp"

namespace {

using namespace syncbn;

void read_options(const std::string& text) {
  const std::string written = to_ini(parse_options(CommandLine(), text, "input.ini"));
  if (to_ini(parse_options(CommandLine(), written, "written.ini")) != written) {
    throw std::logic_error("what was written does not read back to the same");
  }
}

// Products of axes are bounded by a rule of the parser, but building them takes long.
bool small(const Experiment& experiment) {
  constexpr size_t kMost = 64;
  size_t cells = 1;
  for (const Axis& axis : experiment.axes) {
    if (axis.values.size() > kMost) return false;
    cells *= axis.values.size();
    if (cells > kMost) return false;
  }
  return true;
}

void read_study(const std::string& text) {
  for (const Experiment& experiment : parse_study(CommandLine(), text, "input.ini")) {
    if (small(experiment)) cells_of(experiment);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(text_of(data, size));
  answer([&] { read_options(text); });
  answer([&] { read_study(text); });
  return 0;
}
