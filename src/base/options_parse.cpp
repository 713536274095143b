#include <algorithm>
#include <boost/program_options.hpp>
#include <boost/version.hpp>
#include <set>
#include <sstream>

#include "base/options.hpp"

namespace syncbn {
namespace {

namespace po = boost::program_options;

constexpr unsigned kColumns = 100;

// The flags and, section by section, the options. All values stay text here: `set_option` reads
// them, since Boost's conversions are too lenient. Default values only appear in the help.
po::options_description describe(const ProgramOptions& program) {
  po::options_description all("", kColumns, kColumns / 2);
  po::options_description flags("Flags", kColumns, kColumns / 2);
  flags.add_options()("config", po::value<std::string>()->value_name("FILE"),
                      "configuration file; what the command line sets wins over it");
  const CommandLine none;
  for_each_flag(none, [&](const char* name, bool, const char* help) {
    if (program.flags.count(name) != 0) flags.add_options()(name, help);
  });
  all.add(flags);

  std::vector<po::options_description> sections;
  std::string section;
  for (const OptionHelp& option : program.options) {
    const std::string caption = "[" + option.key.substr(0, option.key.find('.')) + "]";
    if (caption != section) sections.emplace_back(caption, kColumns, kColumns / 2);
    section = caption;
    auto* const value = po::value<std::string>()->value_name(option.kind);
    if (!option.value.empty()) value->default_value(option.value);
    sections.back().add_options()(option.key.c_str(), value, option.help.c_str());
  }
  for (const po::options_description& group : sections) all.add(group);
  return all;
}

// A word of the command line, its place, and what may be said about it.
class Words {
 public:
  Words(int argc, const char* const* argv, const ProgramOptions& program)
      : words_(argv + std::min(argc, 1), argv + argc), program_(program), names_{"config"} {
    for (const std::string& flag : program.flags) names_.push_back(flag);
    for (const OptionHelp& option : program.options) names_.push_back(option.key);
  }

  size_t size() const { return words_.size(); }
  const std::string& operator[](size_t i) const { return words_[i]; }
  bool is_name(const std::string& name) const {
    return std::find(names_.begin(), names_.end(), name) != names_.end();
  }
  bool is_option(size_t i) const { return words_[i].compare(0, 2, "--") == 0; }

  // A word that is neither an option nor the value of one.
  [[noreturn]] void refuse_word(size_t i) const {
    const std::string& word = words_[i];
    const std::string unexpected = "unexpected word " + quoted(word);
    const std::string bare = word.substr(std::min(word.find_first_not_of("-+"), word.size()));
    const std::string name = bare.substr(0, bare.find('='));
    if (ends_with(word, ".ini")) {
      throw UsageError(unexpected + "; a configuration file is given with --config " +
                       printable(word));
    }
    if (i > 0 && is_option(i - 1) && program_.flags.count(words_[i - 1].substr(2)) != 0) {
      throw UsageError(concat(unexpected, "; ", words_[i - 1], " takes no value"));
    }
    const bool assigns = name.size() < bare.size();
    const bool follows_value = i > 1 && is_option(i - 2);
    if (follows_value && word[0] != '-' && !assigns && !is_name(name)) refuse_second_value(i);
    if (name == "n" || name == "np") {
      throw UsageError(concat(unexpected, "; the number of ranks is mpirun's: mpirun -n RANKS ",
                              program_.name, " …"));
    }
    const std::string near = is_name(name) ? concat("; did you mean ", quoted("--" + bare), "?")
                             : word[0] == '-' || assigns ? did_you_mean(name, names_, "--")
                                                         : "";
    throw UsageError(unexpected + (near.empty() ? "; options are written --key value, or --config "
                                                  "FILE for a file (--help lists them)"
                                                : near));
  }

  [[noreturn]] void refuse_option(const std::string& name) const {
    const std::string option = quoted("--" + name);
    for (const auto& [other, advice] : program_.elsewhere) {
      if (name.compare(0, other.size(), other) == 0) {
        throw UsageError(concat("unknown option ", option, "; ", advice));
      }
    }
    std::string near = did_you_mean(name, names_, "--");
    if (near.empty()) near = by_help(name);
    throw UsageError(
        concat("unknown option ", option, near.empty() ? "; --help lists all options" : near));
  }

 private:
  static bool ends_with(const std::string& text, const std::string& end) {
    return text.size() > end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
  }

  // --study.seeds 1 .. 3
  [[noreturn]] void refuse_second_value(size_t i) const {
    std::string value = words_[i - 1];
    for (size_t k = i; k < words_.size() && !is_option(k); ++k) value += " " + words_[k];
    throw UsageError(concat(
        "unexpected word ", quoted(words_[i]), " after the value of ", words_[i - 2],
        "; a value of several words needs quotes: ", words_[i - 2], " ", syncbn::quoted(value)));
  }

  // The option whose help names what a word like "learning-rate" says.
  std::string by_help(std::string name) const {
    std::replace_if(
        name.begin(), name.end(), [](char c) { return c == '-' || c == '_'; }, ' ');
    for (const OptionHelp& option : program_.options) {
      if (name.size() < 5 || option.help.find(name) == std::string::npos) continue;
      return concat("; did you mean ", quoted("--" + option.key), "?");
    }
    return "";
  }

  std::vector<std::string> words_;
  const ProgramOptions& program_;
  std::vector<std::string> names_;
};

bool* flag_of(CommandLine& line, const std::string& name) {
  bool* found = nullptr;
  for_each_flag(line, [&](const char* flag, bool& field, const char*) {
    if (name == flag) found = &field;
  });
  return found;
}

}  // namespace

ProgramOptions train_program() {
  return {"syncbn-train",
          "configs/notebook_adam.ini",
          {"overwrite", "resume", "print-config", "self-check", "dry-run", "help", "version"},
          help_of(Options()),
          {{"study.", "the keys of a study are for syncbn-study"},
           {"tune.", "the keys of a study are for syncbn-study"},
           {"measure.", "the keys of a study are for syncbn-study"}},
          ""};
}

CommandLine parse_command_line(int argc, const char* const* argv, const ProgramOptions& program) {
  CommandLine line;
  for (int i = 0; i < argc; ++i) line.words += (i > 0 ? " " : "") + std::string(argv[i]);
  const Words words(argc, argv, program);
  for (size_t i = 0; i < words.size(); ++i) {
    line.help = line.help || words[i] == "-h" || words[i] == "--help";
  }
  if (line.help) return line;

  std::set<std::string> seen;
  for (size_t i = 0; i < words.size(); ++i) {
    if (!words.is_option(i)) words.refuse_word(i);
    const size_t equals = words[i].find('=');
    const std::string key = words[i].substr(2, equals == std::string::npos ? equals : equals - 2);
    if (!words.is_name(key)) words.refuse_option(key);
    if (!seen.insert(key).second) throw UsageError(concat("option '--", key, "' is given twice"));
    if (bool* flag = flag_of(line, key)) {
      if (equals != std::string::npos) {
        throw UsageError(concat("option '--", key, "' takes no value: leave out ",
                                quoted(words[i].substr(equals))));
      }
      *flag = true;
      continue;
    }
    const bool follows = i + 1 < words.size() && !words.is_option(i + 1);
    if (equals == std::string::npos && !follows) {
      throw UsageError(concat("option '--", key, "' needs a value: --", key, " VALUE"));
    }
    const std::string value =
        equals == std::string::npos ? words[++i] : words[i].substr(equals + 1);
    if (key != "config") {
      line.settings.emplace_back(key, value);
    } else if (line.config = value; value.empty()) {
      throw UsageError("option '--config' needs the path of a file: --config FILE");
    }
  }
  if (line.resume && line.overwrite) {
    throw UsageError("--resume goes on with a run, --overwrite replaces it: give one of them");
  }
  return line;
}

std::string help_text(const ProgramOptions& program) {
  std::ostringstream text;
  text << "Usage: mpirun -n RANKS build/" << program.name
       << " [--config FILE] [--section.key VALUE]...\n"
       << "\n"
       << "Values come from the defaults shown, then from the configuration file, where "
          "--train.batch\n"
       << "64 is 'batch = 64' below [train], then from the command line.\n"
       << "\n"
       << "Example: mpirun -n 4 build/" << program.name << " --config " << program.example << "\n"
       << describe(program) << program.notes;
  return text.str();
}

std::string parser_library_version() {
  return concat(BOOST_VERSION / 100000, '.', BOOST_VERSION / 100 % 1000);
}

}  // namespace syncbn
