// Configuration files as text: sections, `key = value`, comments after '#' or ';'.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/error.hpp"

namespace syncbn {

/// One `key = value`, with where it stands ("mnist.ini: line 3").
struct IniSetting {
  std::string section, key, value, where;
};

/// Throws UsageError: kConfig about a place in a file, kUsage about the command line where `where`
/// is empty.
[[noreturn]] void refuse_line(const std::string& where, const std::string& message);

/// The settings of the text of the file `name`, in order. check_section(section, where) is asked
/// about each section's line and throws if it may not be. Throws UsageError(kConfig): what is not a
/// section, a setting or a comment; a doubled key; '#' inside a value; a line above 4096
/// characters.
std::vector<IniSetting> parse_ini(
    const std::string& text, const std::string& name,
    const std::function<void(const std::string& section, const std::string& where)>& check_section);

/// Throws UsageError(kConfig), with the nearest known one, unless `section` is one of `known`. A
/// study's section that is not known is said to be one.
void check_known_section(const std::string& section, const std::vector<std::string>& known,
                         const std::string& where);

/// "train" of "train.batch": each of the keys' sections once, in order.
std::vector<std::string> sections_of(const std::vector<std::string>& keys);

}  // namespace syncbn
