#include "base/options_ini.hpp"

#include <algorithm>
#include <boost/program_options.hpp>
#include <map>
#include <sstream>
#include <utility>

#include "base/options_text.hpp"

namespace syncbn {
namespace {

namespace po = boost::program_options;

constexpr size_t kLongestLine = 4096;

// Boost takes whatever follows a '#' for a comment, even within a word.
void check_hash(const std::string& line, const std::string& section, const std::string& where) {
  const size_t hash = line.find('#');
  const size_t equals = line.find('=');
  if (hash == std::string::npos || equals > hash) return;
  if (line[hash - 1] == ' ' || line[hash - 1] == '\t') return;
  refuse_line(where, concat("'#' inside the value of ", section, ".", trim(line.substr(0, equals)),
                            "; put a space before a comment's '#' or remove it"));
}

// A file without its comments, and the section and place of each of its settings, in order. Boost's
// parser knows no line numbers, no ';' comments and no byte-order mark.
struct Scan {
  std::string text;
  std::vector<IniSetting> settings;  // without key and value
};

Scan scan(const std::string& text, const std::string& name,
          const std::function<void(const std::string&, const std::string&)>& check_section) {
  Scan found;
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
      found.settings.push_back({section, "", "", where});
    }
    found.text += line + "\n";
  }
  return found;
}

}  // namespace

void refuse_line(const std::string& where, const std::string& message) {
  if (where.empty()) throw UsageError(message);
  throw UsageError(concat(where, ": ", message), ExitCode::kConfig);
}

std::vector<IniSetting> parse_ini(
    const std::string& text, const std::string& name,
    const std::function<void(const std::string&, const std::string&)>& check_section) {
  Scan found = scan(text, name, check_section);
  std::istringstream lines(found.text);
  const auto parsed = po::parse_config_file(lines, po::options_description(), true).options;
  SYNCBN_CHECK(parsed.size() == found.settings.size(), name, ": ", parsed.size(), " settings on ",
               found.settings.size(), " lines");
  std::map<std::string, std::string> first;
  for (size_t i = 0; i < parsed.size(); ++i) {
    IniSetting& setting = found.settings[i];
    const std::string& full = parsed[i].string_key;  // "section.key"
    const auto [place, is_new] = first.emplace(full, setting.where);
    if (!is_new) {
      refuse_line(setting.where,
                  concat("doubled key ", quoted(full), ", first in ", place->second));
    }
    setting.key = setting.section.empty() ? full : full.substr(setting.section.size() + 1);
    setting.value = parsed[i].value.at(0);
  }
  return std::move(found.settings);
}

void check_known_section(const std::string& section, const std::vector<std::string>& known,
                         const std::string& where) {
  if (std::find(known.begin(), known.end(), section) != known.end()) return;
  const std::string word = section.substr(0, section.find(' '));
  const bool of_training = std::find(known.begin(), known.end(), "study") == known.end();
  for (const char* of_study : {"experiment", "study", "tune", "measure"}) {
    if (word != of_study || !of_training) continue;
    refuse_line(where, concat("section ", quoted(section),
                              " is of a study: run this file with syncbn-study."));
  }
  std::string all;
  for (const std::string& name : known) all += " [" + name + "]";
  const std::string near = did_you_mean(section, known);
  refuse_line(where, concat("unknown section ", quoted(section), near.empty() ? "." : near,
                            " The sections are", all, "."));
}

std::vector<std::string> sections_of(const std::vector<std::string>& keys) {
  std::vector<std::string> sections;
  for (const std::string& key : keys) {
    const std::string section = key.substr(0, key.find('.'));
    if (sections.empty() || sections.back() != section) sections.push_back(section);
  }
  return sections;
}

}  // namespace syncbn
