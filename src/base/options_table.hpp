// What can be done with any struct whose fields `for_each_option(o, f)` names: f("key", field,
// "help").
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "base/options_text.hpp"

namespace syncbn {

/// Makes a table that of one struct alone, const or not: template <class O, class F, OnlyFor<O,
/// Options> = 0>.
template <class O, class Struct>
using OnlyFor = std::enable_if_t<std::is_same_v<std::remove_const_t<O>, Struct>, int>;

/// One line of --help.
struct OptionHelp {
  std::string key, kind, value, help;  ///< value: the default's text
};

inline const char* kind_of(int64_t) {
  return "N";
}
inline const char* kind_of(double) {
  return "X";
}
inline const char* kind_of(bool) {
  return "BOOL";
}
inline const char* kind_of(const std::string&) {
  return "TEXT";
}

template <class O>
std::vector<OptionHelp> help_of(const O& defaults) {
  std::vector<OptionHelp> lines;
  for_each_option(defaults, [&](const char* key, const auto& field, const char* help) {
    lines.push_back({key, kind_of(field), write_value(field), help});
  });
  return lines;
}

template <class O>
std::vector<std::string> keys_of(const O& options) {
  std::vector<std::string> keys;
  for_each_option(options,
                  [&](const char* key, const auto&, const char*) { keys.emplace_back(key); });
  return keys;
}

/// Reads `value` into the field of `key`: "" when done, else what was expected; nothing if there is
/// no such key.
template <class O>
std::optional<std::string> read_option(O& options, const std::string& key,
                                       const std::string& value) {
  std::optional<std::string> expected;
  for_each_option(options, [&](const char* name, auto& field, const char*) {
    if (name != key) return;
    const char* const wanted = read_value(value, field);
    expected = wanted == nullptr ? "" : wanted;
  });
  return expected;
}

/// The text of the field of `key`; nothing if there is no such key.
template <class O>
std::optional<std::string> write_option(const O& options, const std::string& key) {
  std::optional<std::string> value;
  for_each_option(options, [&](const char* name, const auto& field, const char*) {
    if (name == key) value = write_value(field);
  });
  return value;
}

}  // namespace syncbn
