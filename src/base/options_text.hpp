// Values and words as text: for the options' sources, and `quoted` for all messages.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace syncbn {

/// `text` without the spaces, tabs and line ends around it.
std::string trim(const std::string& text);

/// The parts between the `separator`s, trimmed; none for an empty text.
std::vector<std::string> split(const std::string& text, char separator);

/// `text` as a terminal may show it: '?' for control characters (C0 but newline and tab, C1),
/// for characters that only format or reorder others (zero width, bidirectional), and for bytes
/// that are no UTF-8.
std::string printable(const std::string& text);

/// 'text' in quotes, for a message: printable, on one line, and cut if long.
std::string quoted(const std::string& text);

/// "found 'value'", and what to write instead where it looks like a list of values or like a value
/// with a ';' comment. `decimal`: a number with a fraction was expected.
std::string found_text(const std::string& value, bool decimal = false);

/// "; did you mean 'train.batch'?", or nothing if no choice is near. A word without a dot is also
/// compared with what follows a choice's dot, so that "lr" finds train.lr; a beginning is near.
/// `prefix` is put before each choice.
std::string did_you_mean(const std::string& word, const std::vector<std::string>& choices,
                         const std::string& prefix = "");

/// "unknown key 'x'; did you mean 'y'?", or where all keys are listed.
std::string unknown_key(const std::string& key, const std::vector<std::string>& known);

/// Reads the whole text as one value; returns what was expected, or nullptr when done. Numbers are
/// decimal, finite and in the type's range; booleans are true|false|yes|no|on|off|1|0 in any case.
const char* read_value(const std::string& text, int64_t& value);
const char* read_value(const std::string& text, double& value);
const char* read_value(const std::string& text, bool& value);
const char* read_value(const std::string& text, std::string& value);

/// The text that `read_value` reads back to the same value, in the fewest digits.
std::string write_value(int64_t value);
std::string write_value(double value);
std::string write_value(bool value);
std::string write_value(const std::string& value);

/// "128,64" → {128, 64}; "" → {}; nothing if a part is not a whole number from 1 to 2^20.
std::optional<std::vector<int64_t>> read_sizes(const std::string& text);
constexpr const char* kSizesExpected = "whole numbers from 1 to 1048576 with commas between";

/// The keys of all options, in the table's order.
std::vector<std::string> option_keys();

}  // namespace syncbn
