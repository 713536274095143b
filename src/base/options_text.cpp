#include "base/options_text.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "base/options.hpp"

namespace syncbn {
namespace {

// Levenshtein's distance: insertions, deletions and replacements from one word to the other.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

// Someone who writes the beginning of a word means that word, however much is missing.
size_t word_distance(const std::string& word, const std::string& choice) {
  const size_t distance = edit_distance(word, choice);
  const bool begins = word.size() > 2 && choice.compare(0, word.size(), word) == 0;
  return begins ? std::min<size_t>(distance, 1) : distance;
}

std::string lower_case(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

// One character of a UTF-8 text: its code point and its bytes.
struct Character {
  char32_t code = 0;
  size_t bytes = 0;  // 0: the bytes are no UTF-8
};

// The character that begins at `at` (Unicode 15.0, table 3-7: no overlong forms, no surrogates).
Character character_at(const std::string& text, size_t at) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const char32_t first = byte(at);
  const size_t bytes = first < 0x80   ? 1
                       : first < 0xC2 ? 0
                       : first < 0xE0 ? 2
                       : first < 0xF0 ? 3
                       : first < 0xF5 ? 4
                                      : 0;
  if (bytes < 2) return {first, bytes};
  char32_t code = first & (0xFFU >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(at + i) & 0xC0U) != 0x80) return {};
    code = code << 6U | (byte(at + i) & 0x3FU);
  }
  constexpr char32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  if (code < kSmallest[bytes] || code > 0x10FFFF || surrogate) return {};
  return {code, bytes};
}

// Characters that a terminal obeys instead of showing them, or that change how others are shown
// (Unicode's categories Cc, Zl, Zp and those of Cf that matter outside of their scripts).
bool is_hidden(char32_t c) {
  if (c == '\n' || c == '\t') return false;
  const auto within = [&](char32_t first, char32_t last) { return c >= first && c <= last; };
  return c < ' ' || within(0x7F, 0x9F) || c == 0xAD || c == 0x61C || c == 0x180E ||
         within(0x200B, 0x200F) || within(0x2028, 0x202E) || within(0x2060, 0x206F) ||
         c == 0xFEFF || within(0xFFF9, 0xFFFB) || within(0xE0000, 0xE007F);
}

}  // namespace

std::string trim(const std::string& text) {
  const char* const blanks = " \t\r\n";
  const size_t first = text.find_first_not_of(blanks);
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  if (trim(text).empty()) return parts;
  for (size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
    end = text.find(separator, begin);
    parts.push_back(trim(text.substr(begin, end == std::string::npos ? end : end - begin)));
  }
  return parts;
}

std::string printable(const std::string& text) {
  std::string shown;
  for (size_t at = 0; at < text.size();) {
    const Character next = character_at(text, at);
    const bool hidden = next.bytes == 0 || is_hidden(next.code);
    shown += hidden ? "?" : text.substr(at, next.bytes);
    at += std::max<size_t>(next.bytes, 1);
  }
  return shown;
}

std::string quoted(const std::string& text) {
  constexpr size_t kLongest = 80;  // bytes
  size_t end = std::min(text.size(), kLongest);
  while (end < text.size() && end > kLongest - 3 && (text[end] & 0xC0) == 0x80) --end;
  std::string shown = printable(text.substr(0, end));
  std::replace_if(
      shown.begin(), shown.end(), [](char c) { return c == '\n' || c == '\t'; }, '?');
  return "'" + shown + (end < text.size() ? "…'" : "'");
}

std::string found_text(const std::string& value, bool decimal) {
  std::string text = "found " + quoted(value);
  if (value.find(" ;") != std::string::npos || value.find("\t;") != std::string::npos) {
    return text + "; a comment behind a value begins with ' #', not with ';'";
  }
  const auto parts = split(value, ',');
  const bool empty = std::find(parts.begin(), parts.end(), "") != parts.end();
  if (parts.size() < 2 || empty) return text;
  if (decimal && parts.size() == 2 && value.find(' ') == std::string::npos) {
    text += "; a decimal point is written '.'";
  }
  std::string list;
  for (const std::string& part : parts) list += (list.empty() ? "" : " | ") + part;
  return text + "; the several values that a study tries are written " + syncbn::quoted(list) +
         " (a shell needs the quotes)";
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& choices,
                         const std::string& prefix) {
  constexpr size_t kLongestWord = 100;
  if (word.empty() || word.size() > kLongestWord) return "";
  const bool dotted = word.find('.') != std::string::npos;
  size_t nearest = std::max<size_t>(1, word.size() / 2);
  std::string found;
  const std::string lower = lower_case(word);
  for (const std::string& choice : choices) {
    size_t distance = word_distance(lower, choice);
    const size_t dot = choice.find('.');
    if (!dotted && dot != std::string::npos) {
      distance = std::min(distance, word_distance(lower, choice.substr(dot + 1)));
    }
    if (distance > nearest) continue;
    const std::string name = quoted(prefix + choice);
    found = distance == nearest && !found.empty() ? concat(found, " or ", name) : name;
    nearest = distance;
  }
  return found.empty() ? "" : "; did you mean " + found + "?";
}

std::string unknown_key(const std::string& key, const std::vector<std::string>& known) {
  const std::string near = did_you_mean(key, known);
  return concat("unknown key ", quoted(key), near.empty() ? "; --help lists all keys" : near);
}

// Boost's own conversions let -1 wrap in unsigned types and accept nan and inf.
const char* read_value(const std::string& text, int64_t& value) {
  int64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [last, status] = std::from_chars(text.data(), end, number);
  if (status == std::errc::result_out_of_range) return "a whole number that fits in 64 bits";
  if (status != std::errc() || last != end) return "a whole number";
  value = number;
  return nullptr;
}

const char* read_value(const std::string& text, double& value) {
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [last, status] = std::from_chars(text.data(), end, number);
  if (status == std::errc::result_out_of_range) return "a number in the range of a double";
  if (status != std::errc() || last != end) return "a number";
  if (!std::isfinite(number)) return "a finite number";
  value = number;
  return nullptr;
}

const char* read_value(const std::string& text, bool& value) {
  const std::string word = lower_case(text);
  const bool yes = word == "true" || word == "yes" || word == "on" || word == "1";
  const bool no = word == "false" || word == "no" || word == "off" || word == "0";
  if (!yes && !no) return "true or false (yes, no, on, off, 1 and 0 will do, in any case)";
  value = yes;
  return nullptr;
}

const char* read_value(const std::string& text, std::string& value) {
  value = text;
  return nullptr;
}

std::string write_value(int64_t value) {
  return std::to_string(value);
}
std::string write_value(bool value) {
  return value ? "true" : "false";
}
std::string write_value(const std::string& value) {
  return value;
}

// The fewest digits that read back to the same double.
std::string write_value(double value) {
  char buffer[32];
  const auto [end, status] = std::to_chars(buffer, buffer + sizeof buffer, value);
  SYNCBN_CHECK(status == std::errc(), "a double takes more than ", sizeof buffer, " characters");
  return {buffer, end};
}

std::optional<std::vector<int64_t>> read_sizes(const std::string& text) {
  constexpr int64_t kLargest = int64_t{1} << 20;
  std::vector<int64_t> sizes;
  for (const std::string& part : split(text, ',')) {
    int64_t size = 0;
    if (read_value(part, size) != nullptr || size < 1 || size > kLargest) return std::nullopt;
    sizes.push_back(size);
  }
  return sizes;
}

std::vector<std::string> option_keys() {
  return keys_of(Options());
}

}  // namespace syncbn
