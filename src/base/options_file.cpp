#include <algorithm>

#include "base/file.hpp"
#include "base/options.hpp"
#include "base/options_ini.hpp"
#include "base/options_text.hpp"

namespace syncbn {
namespace {

constexpr size_t kLargestConfig = size_t{1} << 20;  // bytes

// See parse_options: the command line's way of giving the batch replaces the file's.
void settle_batch(Options& options) {
  if (options.train.batch_per_rank == 0 || options.set_keys.count("train.batch") == 0) return;
  const bool batch_from_file = options.from_file.count("train.batch") != 0;
  const bool per_rank_from_file = options.from_file.count("train.batch_per_rank") != 0;
  if (batch_from_file == per_rank_from_file) return;  // `validate` refuses both in one place
  const std::string loser = batch_from_file ? "train.batch" : "train.batch_per_rank";
  const Options defaults;
  set_option(options, loser, get_option(defaults, loser));
  options.set_keys.erase(loser);
}

}  // namespace

Options parse_options(const CommandLine& line, const std::string& config_text,
                      const std::string& config_name) {
  Options options;
  const auto sections = sections_of(option_keys());
  const auto settings = parse_ini(config_text, config_name,
                                  [&](const std::string& section, const std::string& where) {
                                    check_known_section(section, sections, where);
                                  });
  for (const IniSetting& setting : settings) {
    const std::string key =
        setting.section.empty() ? setting.key : setting.section + "." + setting.key;
    set_option(options, key, setting.value, setting.where);
  }
  for (const auto& [key, value] : line.settings) set_option(options, key, value);
  settle_batch(options);
  validate(options);
  return options;
}

std::string read_config(const std::string& path) {
  const FileBytes bytes =
      read_regular_file(path, "configuration file", kLargestConfig, ExitCode::kConfig);
  const auto* const begin = bytes.data.get();
  const auto* const end = begin + bytes.size;
  const auto* const stray = std::find_if(begin, end, [](uint8_t c) {
    return (c < ' ' && c != '\t' && c != '\r' && c != '\n') || c == 127;
  });
  if (stray != end) {
    throw Error(concat("configuration file ", quoted(path), " is not a text: control character at ",
                       "byte ", stray - begin + 1),
                ExitCode::kConfig);
  }
  return {begin, end};
}

}  // namespace syncbn
