#include "study/study_options.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/options_ini.hpp"

namespace syncbn {
namespace {

constexpr size_t kMostValues = 10000;
constexpr int64_t kMostSeed = int64_t{1} << 53;
constexpr double kMostWhole = 9007199254740992;  // 2^53: a double tells whole numbers apart to here

[[noreturn]] void refuse(const std::string& key, const std::string& expected,
                         const std::string& found) {
  throw UsageError(concat(key, ": expected ", expected, ", found ", quoted(found)));
}

// The same about a list or a word, which may be written as elsewhere.
[[noreturn]] void refuse_list(const std::string& key, const std::string& expected,
                              const std::string& found) {
  throw UsageError(concat(key, ": expected ", expected, ", ", found_text(found)));
}

bool is_whole(const std::string& text) {
  int64_t value = 0;
  return read_value(text, value) == nullptr;
}

double number(const std::string& key, const std::string& text, const std::string& whole) {
  double value = 0;
  if (read_value(text, value) != nullptr) refuse(key, "numbers around '..' and after 'by'", whole);
  return value;
}

// A .. B [by S | by *F]
std::vector<std::string> parse_range(const std::string& key, const std::string& text) {
  const size_t dots = text.find("..");
  const size_t by = text.find(" by ");
  const std::string from = trim(text.substr(0, dots));
  const std::string to = trim(text.substr(dots + 2, by == std::string::npos ? by : by - dots - 2));
  std::string step = by == std::string::npos ? "1" : trim(text.substr(by + 4));
  const bool multiplies = !step.empty() && step[0] == '*';
  if (multiplies) step = trim(step.substr(1));
  const double first = number(key, from, text), last = number(key, to, text);
  const double by_value = number(key, step, text);
  const bool whole = is_whole(from) && is_whole(step);
  const bool grows = multiplies ? by_value > 1 && first > 0 : by_value > 0;
  if (!grows || last < first) {
    refuse(key, "a range that grows from its first value to its last", text);
  }
  if (whole && last > kMostWhole) refuse(key, "a range of whole numbers up to 2^53", text);
  std::vector<std::string> values;
  const double slack = whole ? 1 : 1 + 1e-6;  // of the rounded digits of a factor
  for (size_t i = 0;; ++i) {
    const double value = multiplies ? first * std::pow(by_value, static_cast<double>(i))
                                    : first + by_value * static_cast<double>(i);
    if (value > (last > 0 ? last * slack : last + 1e-9)) break;
    if (values.size() == kMostValues) refuse(key, concat("at most ", kMostValues, " values"), text);
    values.push_back(whole ? std::to_string(std::llround(value)) : four_digits(value));
  }
  if (values.size() == 1 && last > first) {
    refuse(key, concat("a range of more than one value, such as ", from, " .. ", to, " by *2"),
           text);
  }
  return values;
}

// Rates that are chosen by the trials which they are then judged by look better than they are.
void check_apart(const StudyOptions& study) {
  const auto seeds = parse_integers("study.seeds", study.seeds);
  const std::set<int64_t> final(seeds.begin(), seeds.end());
  for (const int64_t seed : parse_integers("tune.seeds", study.tune_seeds)) {
    if (final.count(seed) == 0) continue;
    refuse("tune.seeds", concat("other seeds than those of study.seeds (", study.seeds, ")"),
           study.tune_seeds);
  }
}

void one_of(const std::string& key, const std::string& value,
            const std::vector<std::string>& choices) {
  if (std::find(choices.begin(), choices.end(), value) != choices.end()) return;
  std::string all;
  for (const std::string& choice : choices) all += (all.empty() ? "" : " | ") + choice;
  refuse_list(key, all, value);
}

void within(const std::string& key, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return;
  refuse(key, concat("a whole number from ", least, " to ", most), write_value(value));
}

void check_known(const std::string& key, const std::string& where) {
  std::vector<std::string> keys = option_keys();
  if (std::find(keys.begin(), keys.end(), key) != keys.end()) return;
  const auto more = keys_of(StudyOptions());
  keys.insert(keys.end(), more.begin(), more.end());
  refuse_line(where, unknown_key(key, keys));
}

}  // namespace

void TrialOptions::set(const std::string& key, const std::string& value, const std::string& where) {
  const auto expected = read_option(study, key, value);
  if (!expected) {
    check_known(key, where);
    set_option(train, key, value, where);
    return;
  }
  if (expected->empty()) return;
  const bool decimal = expected->find("a number") == 0;
  refuse_line(where, concat(where.empty() ? "--" : "", key, ": expected ", *expected, ", ",
                            found_text(value, decimal)));
}

std::string TrialOptions::get(const std::string& key) const {
  const auto value = write_option(study, key);
  return value ? *value : get_option(train, key);
}

std::string four_digits(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  double rounded = 0;
  SYNCBN_CHECK(read_value(std::string(text), rounded) == nullptr, text);
  return write_value(rounded);
}

std::vector<std::string> parse_list(const std::string& key, const std::string& text) {
  std::vector<std::string> values;
  for (const std::string& part : split(text, '|')) {
    if (part.find("..") == std::string::npos) {
      values.push_back(part);
    } else {
      for (std::string& value : parse_range(key, part)) values.push_back(std::move(value));
    }
    if (values.size() > kMostValues) refuse(key, concat("at most ", kMostValues, " values"), text);
  }
  return values;
}

std::vector<double> parse_numbers(const std::string& key, const std::string& text) {
  std::vector<double> numbers;
  for (const std::string& value : parse_list(key, text)) {
    numbers.push_back(0);
    if (read_value(value, numbers.back()) != nullptr) refuse_list(key, "numbers", text);
  }
  return numbers;
}

std::vector<int64_t> parse_integers(const std::string& key, const std::string& text) {
  std::vector<int64_t> numbers;
  for (const std::string& value : parse_list(key, text)) {
    numbers.push_back(0);
    if (read_value(value, numbers.back()) != nullptr) refuse_list(key, "whole numbers", text);
  }
  return numbers;
}

void validate(const StudyOptions& study) {
  for (const auto& [key, text] : {std::pair<std::string, std::string>{"study.seeds", study.seeds},
                                  {"tune.seeds", study.tune_seeds}}) {
    const auto seeds = parse_integers(key, text);
    const bool in_range = std::all_of(seeds.begin(), seeds.end(),
                                      [](int64_t seed) { return seed >= 0 && seed < kMostSeed; });
    const std::set<int64_t> distinct(seeds.begin(), seeds.end());
    if (seeds.empty() || !in_range || distinct.size() != seeds.size()) {
      refuse(key, "one or more different whole numbers from 0 on", text);
    }
  }
  const auto rates = parse_numbers("tune.lr", study.lr);
  const std::set<double> distinct_rates(rates.begin(), rates.end());
  if (distinct_rates.size() != rates.size() || (!rates.empty() && *distinct_rates.begin() <= 0)) {
    refuse("tune.lr", "different learning rates above 0", study.lr);
  }
  if (!rates.empty()) check_apart(study);
  const auto targets = parse_numbers("measure.targets", study.targets);
  for (const double target : targets) {
    if (target <= 0 || target >= 1) refuse("measure.targets", "errors in (0, 1)", study.targets);
  }
  if (!std::is_sorted(targets.rbegin(), targets.rend())) {
    refuse("measure.targets", "falling errors, the first to be reached first", study.targets);
  }
  for (const int64_t m : parse_integers("measure.noise_law", study.noise_law)) {
    if (m < 2) refuse("measure.noise_law", "numbers of samples from 2 on", study.noise_law);
  }
  const bool control = std::any_of(study.out.begin(), study.out.end(),
                                   [](unsigned char c) { return c < ' ' || c == 127; });
  if (control) refuse("study.out", "a path without control characters", study.out);
  one_of("study.impossible", study.impossible, {"refuse", "drop"});
  one_of("study.stop", study.stop, {"none", "target", "plateau"});
  one_of("tune.criterion", study.criterion, {"val_accuracy", "val_loss", "steps_to_target"});
  one_of("measure.layers", study.layers, {"none", "last", "full"});
  if (targets.empty() && (study.stop == "target" || study.criterion == "steps_to_target")) {
    refuse("measure.targets", "a validation error, which study.stop or tune.criterion asks for",
           "");
  }
  // Above these nothing could be run; products of them with B or steps fit in 64 bits.
  constexpr int64_t kMostSteps = int64_t{1} << 40, kMostSamples = int64_t{1} << 30;
  within("study.ranks", study.ranks, 1, int64_t{1} << 20);
  within("tune.extend", study.extend, 0, 100);
  if (study.per_epoch <= 0) refuse("measure.per_epoch", "above 0", write_value(study.per_epoch));
  within("measure.every_steps", study.every_steps, 0, kMostSteps);
  within("measure.full_every", study.full_every, 0, kMostSteps);
  within("measure.train_samples", study.train_samples, 1, kMostSamples);
  within("measure.population", study.population, 2, kMostSamples);
  within("measure.units", study.units, 0, int64_t{1} << 20);
  if (study.noise_scale == 1) refuse("measure.noise_scale", "2 batches or more, or 0", "1");
  within("measure.noise_scale", study.noise_scale, 0, int64_t{1} << 20);
}

namespace {

template <class Value>
int64_t count(const std::vector<Value>& list) {
  return static_cast<int64_t>(list.size());
}

}  // namespace

int64_t planned_trials(const StudyOptions& study) {
  return count(parse_integers("study.seeds", study.seeds)) +
         count(parse_numbers("tune.lr", study.lr)) *
             count(parse_integers("tune.seeds", study.tune_seeds));
}

int64_t most_trials(const StudyOptions& study) {
  const bool near = study.neighbours && !study.lr.empty();
  return planned_trials(study) + (near ? 2 * count(parse_integers("study.seeds", study.seeds)) : 0);
}

std::string seeds_note(const StudyOptions& study) {
  constexpr int64_t kMostRuns = 99;  // whoever writes 101 means a seed
  std::string note;
  const auto look = [&](const std::string& key, const std::string& seeds) {
    int64_t seed = 0;
    if (read_value(seeds, seed) != nullptr || seed < 2 || seed > kMostRuns) return;
    note += concat(note.empty() ? "" : "; ", key, " = ", seed, " is one run, with seed ", seed,
                   "; 1 .. ", seed, " are ", seed, " runs");
  };
  look("study.seeds", study.seeds);
  if (!study.lr.empty()) look("tune.seeds", study.tune_seeds);
  return note;
}

}  // namespace syncbn
