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
void add_options(Json& json, const O& options) {
  for_each_option(options, [&](const char* key, const auto& field, const char*) {
    json[key] = write_value(field);
  });
}

Json options_of(const TrialOptions& options) {
  Json all = Json::object();
  add_options(all, options.train);
  add_options(all, options.study);
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

void add_data(Texts& clauses, const Json& before, const Json& now) {
  for (const auto& [name, digests] : now.items()) {
    const Json old = member(before, name.c_str());
    if (old.is_null()) {
      clauses.push_back(concat("the data set ", quoted(name), " is new"));
      continue;
    }
    for (const auto& [file, digest] : digests.items()) {
      const Json known = member(old, file.c_str());
      if (known.is_null() || known == digest) continue;
      clauses.push_back(concat("the files of the data set ", quoted(name), " are others"));
      break;
    }
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

Json cell_json(const Cell& cell) {
  Json settings = Json::object(), options = Json::object(), study = Json::object();
  for (const auto& [key, value] : cell.settings) settings[key] = value;
  add_options(options, cell.options.train);
  add_options(study, cell.options.study);
  return {{"experiment", cell.experiment},
          {"cell", cell.name},
          {"settings", settings},
          {"options", options},
          {"study", study}};
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
