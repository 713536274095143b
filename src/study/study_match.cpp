#include "study/study_match.hpp"

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

namespace syncbn {
namespace {

using Json = nlohmann::ordered_json;
using Texts = std::vector<std::string>;

constexpr size_t kMostClauses = 6;

template <class O>
Json all_options(const O& options) {
  Json all = Json::object();
  for_each_option(options, [&](const char* key, const auto& field, const char*) {
    all[key] = write_value(field);
  });
  return all;
}

Json options_of(const TrialOptions& options) {
  Json all = all_options(options.train);
  all.update(all_options(options.study));
  return all;
}

// The member, or null where there is none.
Json member(const Json& json, const char* key) {
  return json.is_object() && json.contains(key) ? json.at(key) : Json();
}

std::string text_of(const Json& json) {
  return json.is_string() ? json.get<std::string>() : json.dump();
}

Texts names_of_cells(const Json& study) {
  Texts names;
  for (const Json& experiment : member(study, "experiments")) {
    for (const Json& cell : member(experiment, "cells")) {
      names.push_back(text_of(member(experiment, "name")) + "/" + text_of(member(cell, "cell")));
    }
  }
  return names;
}

// "cells a/x and 3 more are new" for those of `names` that are not among `others`.
void add_lacking(Texts& clauses, const Texts& names, const Texts& others, const char* are) {
  const std::set<std::string> known(others.begin(), others.end());
  Texts lacking;
  for (const std::string& name : names) {
    if (known.count(name) == 0) lacking.push_back(name);
  }
  if (lacking.empty()) return;
  const size_t more = lacking.size() - 1;
  clauses.push_back(concat(syncbn::quoted(lacking[0]),
                           more > 0 ? concat(" and ", more, " more") : "",
                           more > 0 ? " are " : " is ", are));
}

std::string names_text(const Json& json) {
  std::string text;
  for (const auto& entry : json.items()) {
    text += concat(text.empty() ? "" : ", ", quoted(entry.key()));
  }
  return text.empty() ? "nothing" : text;
}

// A data set's files with their digests, or the mean and deviation that scale its inputs.
void add_data(Texts& clauses, const Json& before, const Json& now) {
  for (const auto& [name, files] : now.items()) {
    const Json old = member(before, name.c_str());
    const std::string set = "the data set " + quoted(name);
    if (!old.is_object()) {
      clauses.push_back(set + " is not in it");
      continue;
    }
    const std::string has = names_text(old), expected = names_text(files);
    if (has != expected) clauses.push_back(concat(set, " has ", has, ", expected ", expected));
    for (const auto& [file, digest] : files.items()) {
      const Json known = member(old, file.c_str());
      if (known.is_null() || known == digest) continue;
      clauses.push_back(concat(quoted(file), " of ", set, " is another file"));
    }
  }
  for (const auto& entry : before.items()) {
    if (now.contains(entry.key())) continue;
    clauses.push_back(concat("the data set ", quoted(entry.key()), " is only in it"));
  }
}

// An option's change, and in how many cells it is the same.
using Changes = std::map<std::string, int64_t>;

void add_changes(Changes& changes, const Json& before, const Json& now) {
  static const Json defaults = options_of(TrialOptions());
  for (const auto& [key, value] : now.items()) {
    if (!decides_results(key)) continue;
    const Json known = member(before, key.c_str());
    const std::string old = text_of(known.is_null() ? defaults.at(key) : known);
    if (old == text_of(value)) continue;
    ++changes[concat(key, " is ", quoted(old), ", expected ", quoted(text_of(value)))];
  }
}

void add_options(Texts& clauses, const std::string& path, const Texts& known, const Plan& plan) {
  const std::set<std::string> there(known.begin(), known.end());
  Changes changes;
  for (const Cell& cell : plan.cells) {
    if (there.count(cell.folder()) == 0) continue;
    std::ifstream file(path + "/" + cell.folder() + "/cell.json");
    const Json json = Json::parse(file, nullptr, /*allow_exceptions=*/false);
    Json before = member(json, "options");
    if (!before.is_object() || !member(json, "study").is_object()) {
      ++changes[concat(quoted(cell.folder() + "/cell.json"), " is missing or damaged")];
      continue;
    }
    before.update(json.at("study"));
    add_changes(changes, before, options_of(cell.options));
  }
  for (const auto& [change, cells] : changes) {
    clauses.push_back(change + (cells > 1 ? concat(" (in ", cells, " cells)") : ""));
  }
}

}  // namespace

Json options_json(const Options& options) {
  return all_options(options);
}

Json cell_json(const Cell& cell) {
  Json settings = Json::object();
  for (const auto& [key, value] : cell.settings) settings[key] = value;
  return {{"experiment", cell.experiment},
          {"cell", cell.name},
          {"settings", settings},
          {"options", all_options(cell.options.train)},
          {"study", all_options(cell.options.study)}};
}

Texts differences(const std::string& path, const Json& before, const Plan& plan, const Json& now) {
  Texts clauses;
  const Texts known = names_of_cells(before);
  if (known.empty()) return {"its study.json names no cells"};
  Texts planned;
  for (const Cell& cell : plan.cells) planned.push_back(cell.folder());
  const auto kind = [](const Json& json) { return text_of(member(json, "device")).substr(0, 4); };
  if (kind(before) != kind(now)) {
    clauses.push_back(concat("its device is ", quoted(text_of(member(before, "device"))),
                             ", expected ", quoted(text_of(member(now, "device")))));
  }
  add_data(clauses, member(before, "data"), member(now, "data"));
  add_options(clauses, path, known, plan);
  add_lacking(clauses, planned, known, "not in it");
  add_lacking(clauses, known, planned, "only in it");
  if (clauses.size() > kMostClauses) {
    const size_t more = clauses.size() - kMostClauses;
    clauses.resize(kMostClauses);
    clauses.push_back(concat("and ", more, " more"));
  }
  return clauses;
}

}  // namespace syncbn
