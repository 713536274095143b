#include <algorithm>
#include <boost/program_options.hpp>
#include <map>
#include <sstream>

#include "base/file.hpp"
#include "base/options.hpp"
#include "base/options_text.hpp"

namespace syncbn {
namespace {

namespace po = boost::program_options;

constexpr size_t kLargestConfig = size_t{1} << 20;  // bytes
constexpr size_t kLongestLine = 4096;

// One `key = value` of a configuration file, with where it stands.
struct Setting {
  std::string key, value, where;
};

[[noreturn]] void refuse_line(const std::string& where, const std::string& message) {
  throw UsageError(concat(where, ": ", message), ExitCode::kConfig);
}

void check_section(const std::string& name, const std::string& where) {
  std::vector<std::string> sections;
  for (const std::string& key : option_keys()) {
    const std::string section = key.substr(0, key.find('.'));
    if (sections.empty() || sections.back() != section) sections.push_back(section);
  }
  if (std::find(sections.begin(), sections.end(), name) != sections.end()) return;
  std::string all;
  for (const std::string& section : sections) all += " [" + section + "]";
  refuse_line(where, concat("unknown section ", quoted(name), did_you_mean(name, sections),
                            " The sections are", all));
}

// Boost takes whatever follows a '#' for a comment, even within a word.
void check_hash(const std::string& line, const std::string& section, const std::string& where) {
  const size_t hash = line.find('#');
  const size_t equals = line.find('=');
  if (hash == std::string::npos || equals > hash) return;
  if (line[hash - 1] == ' ' || line[hash - 1] == '\t') return;
  refuse_line(where, concat("'#' inside the value of ", section, ".", trim(line.substr(0, equals)),
                            "; put a space before a comment's '#' or remove it"));
}

// A configuration file without its comments, and where its settings stand, in order. Boost's
// parser knows no line numbers, no ';' comments and no byte-order mark.
struct Scan {
  std::string text;
  std::vector<std::string> places;
};

Scan scan_config(const std::string& text, const std::string& name) {
  Scan scan;
  std::istringstream lines(text);
  std::string section;
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    const std::string where = concat(name, ": line ", ++number);
    if (number == 1 && line.compare(0, 3, "\xEF\xBB\xBF") == 0) line.erase(0, 3);
    if (line.size() > kLongestLine) {
      refuse_line(where, concat("longer than ", kLongestLine, " characters"));
    }
    line = trim(line);
    if (line.empty() || line[0] == '#' || line[0] == ';') continue;
    check_hash(line, section, where);
    line = trim(line.substr(0, line.find('#')));
    if (line.front() == '[' && line.back() == ']') {
      section = line.substr(1, line.size() - 2);
      check_section(section, where);
    } else if (line.find('=') == std::string::npos) {
      refuse_line(where,
                  concat("expected [section], key = value or a comment, found ", quoted(line)));
    } else {
      scan.places.push_back(where);
    }
    scan.text += line + "\n";
  }
  return scan;
}

std::vector<Setting> parse_config(const std::string& text, const std::string& name) {
  const Scan scan = scan_config(text, name);
  std::istringstream lines(scan.text);
  const auto parsed = po::parse_config_file(lines, po::options_description(), true).options;
  SYNCBN_CHECK(parsed.size() == scan.places.size(), name, ": ", parsed.size(), " settings on ",
               scan.places.size(), " lines");
  std::vector<Setting> settings;
  std::map<std::string, std::string> first;
  for (size_t i = 0; i < parsed.size(); ++i) {
    const std::string& key = parsed[i].string_key;
    const auto [place, is_new] = first.emplace(key, scan.places[i]);
    if (!is_new) {
      refuse_line(scan.places[i],
                  concat("doubled key ", quoted(key), ", first in ", place->second));
    }
    settings.push_back({key, parsed[i].value.at(0), scan.places[i]});
  }
  return settings;
}

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
  for (const Setting& setting : parse_config(config_text, config_name)) {
    set_option(options, setting.key, setting.value, setting.where);
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
