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

std::string quoted(const std::string& text) {
  constexpr size_t kLongest = 80;
  std::string shown = text.substr(0, kLongest);
  std::replace_if(
      shown.begin(), shown.end(), [](unsigned char c) { return c < ' ' || c == 127; }, '?');
  return "'" + shown + (text.size() > kLongest ? "…'" : "'");
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& choices,
                         const std::string& prefix) {
  constexpr size_t kLongestWord = 100;
  if (word.empty() || word.size() > kLongestWord) return "";
  const bool dotted = word.find('.') != std::string::npos;
  size_t nearest = std::max<size_t>(1, word.size() / 2);
  std::string found;
  for (const std::string& choice : choices) {
    size_t distance = word_distance(word, choice);
    const size_t dot = choice.find('.');
    if (!dotted && dot != std::string::npos) {
      distance = std::min(distance, word_distance(word, choice.substr(dot + 1)));
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
  const bool yes = text == "true" || text == "1" || text == "yes" || text == "on";
  const bool no = text == "false" || text == "0" || text == "no" || text == "off";
  if (!yes && !no) return "true or false";
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
