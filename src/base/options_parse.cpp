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

// The arguments with --key=value cut in two, so that an empty value is a value like any other.
std::vector<std::string> separate(int argc, const char* const* argv) {
  std::vector<std::string> words;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const size_t equals = word.compare(0, 2, "--") == 0 ? word.find('=') : std::string::npos;
    words.push_back(word.substr(0, equals));
    if (equals != std::string::npos) words.push_back(word.substr(equals + 1));
  }
  return words;
}

[[noreturn]] void refuse_word(const std::string& word) {
  const size_t dot = word.rfind('.');
  const bool is_config = dot != std::string::npos && word.substr(dot) == ".ini";
  throw UsageError(concat("unexpected word ", quoted(word),
                          is_config
                              ? "; a configuration file is given with --config " + word
                              : "; options are written --key value, or --config FILE for a file"));
}

[[noreturn]] void refuse_option(const std::string& name, const po::options_description& known) {
  std::vector<std::string> names;
  for (const auto& option : known.options()) names.push_back(option->long_name());
  const std::string word = name.substr(std::min(name.find_first_not_of('-'), name.size()));
  const std::string suggestion = did_you_mean(word, names, "--");
  throw UsageError(concat("unknown option ", quoted(name),
                          suggestion.empty() ? "; --help lists all options" : suggestion));
}

std::vector<po::option> parse_words(const std::vector<std::string>& words,
                                    const ProgramOptions& program) {
  namespace style = po::command_line_style;
  const po::options_description known = describe(program);
  try {
    // Without allow_guessing, which takes --train.b for --train.batch.
    return po::command_line_parser(words)
        .options(known)
        .style(style::allow_long | style::long_allow_next)
        .run()
        .options;
  } catch (const po::unknown_option& error) {
    refuse_option(error.get_option_name(), known);
  } catch (const po::error_with_option_name& error) {
    throw UsageError(concat("option ", quoted(error.get_option_name()), " needs a value"));
  }
}

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
          help_of(Options())};
}

CommandLine parse_command_line(int argc, const char* const* argv, const ProgramOptions& program) {
  CommandLine line;
  for (int i = 0; i < argc; ++i) line.words += (i > 0 ? " " : "") + std::string(argv[i]);
  std::set<std::string> seen;
  for (const po::option& option : parse_words(separate(argc, argv), program)) {
    const std::string& key = option.string_key;
    if (key.empty()) refuse_word(option.value.at(0));
    // Boost takes the option that follows for the value that is missing.
    if (!option.value.empty() && option.value.at(0).compare(0, 2, "--") == 0) {
      throw UsageError(concat("option '--", key, "' needs a value"));
    }
    if (!seen.insert(key).second) throw UsageError(concat("option '--", key, "' is given twice"));
    if (bool* flag = flag_of(line, key)) {
      *flag = true;
    } else if (key == "config") {
      line.config = option.value.at(0);
      if (line.config.empty()) throw UsageError("option '--config' needs the path of a file");
    } else {
      line.settings.emplace_back(key, option.value.at(0));
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
       << describe(program);
  return text.str();
}

std::string parser_library_version() {
  return concat(BOOST_VERSION / 100000, '.', BOOST_VERSION / 100 % 1000);
}

}  // namespace syncbn
