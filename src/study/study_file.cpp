#include "study/study_file.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "base/digest.hpp"
#include "base/options_ini.hpp"

namespace syncbn {
namespace {

constexpr const char* kExperiment = "experiment ";
constexpr size_t kLongestName = 120;  // of a cell's folder
constexpr size_t kMostCells = 100000;

// Texts and lists by nature: their values are never axes.
const std::set<std::string>& whole_values() {
  static const std::set<std::string> keys = {"study.title",       "study.out", "study.seeds",
                                             "tune.seeds",        "tune.lr",   "measure.targets",
                                             "measure.noise_law", "data.dir"};
  return keys;
}

bool is_axis(const std::string& key, const std::string& value) {
  if (key.find('&') != std::string::npos) return true;
  if (whole_values().count(key) != 0) return false;
  return value.find('|') != std::string::npos || value.find("..") != std::string::npos;
}

// Options of trainings that mean nothing here, and what to do instead.
const std::map<std::string, std::string>& not_of_studies() {
  static const std::map<std::string, std::string> keys = {
      {"run.out", "give study.out instead"},
      {"run.seed", "give study.seeds instead"},
      {"norm.eval", "it measures under running, recomputed and batch statistics; remove the key"},
      {"run.checkpoint_steps", "its trials are begun again; remove the key"},
      {"run.checkpoint_minutes", "its trials are begun again; remove the key"},
      {"run.keep_checkpoints", "its trials are begun again; remove the key"},
      {"run.keep_best", "it keeps no models; remove the key"},
      {"model.weights", "its trials begin with weights of their seeds; remove the key"},
      {"run.check_steps", "remove the key"}};
  return keys;
}

// What all trials share.
const std::vector<std::string>& keys_of_job() {
  static const std::vector<std::string> keys = {"run.device", "run.backend", "run.threads",
                                                "run.timeout", "run.check"};
  return keys;
}

bool is_experiment(const std::string& section) {
  return (section + " ").compare(0, std::string(kExperiment).size(), kExperiment) == 0;
}

std::string experiment_name(const std::string& section) {
  return trim((section + " ").substr(std::string(kExperiment).size()));
}

std::string checked_name(const std::string& section, const std::string& where) {
  std::string name = experiment_name(section);
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-';
  });
  if (name.empty() || !plain || name.size() > 64) {
    refuse_line(where, concat("expected an experiment's name of up to 64 letters, digits, '_' and "
                              "'-', found ",
                              syncbn::quoted(name)));
  }
  return name;
}

Axis parse_axis(const std::string& key, const std::string& value, const std::string& where) {
  Axis axis{split(key, '&'), {}, where};
  try {
    if (axis.keys.size() == 1) {
      for (std::string& one : parse_list(key, value)) axis.values.push_back({std::move(one)});
      return axis;
    }
    for (const std::string& tuple : split(value, '|')) axis.values.push_back(split(tuple, '&'));
  } catch (const UsageError& error) {
    refuse_line(where, error.what());
  }
  if (axis.values.empty()) refuse_line(where, concat(key, ": expected values, found none"));
  for (const auto& tuple : axis.values) {
    if (tuple.size() == axis.keys.size()) continue;
    refuse_line(where,
                concat(key, ": expected ", axis.keys.size(),
                       " values joined by '&' between the '|', found ", tuple.size(), " of them"));
  }
  return axis;
}

bool mentions(const std::string& line_key, const std::string& key) {
  const auto keys = split(line_key, '&');
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

// One line of an experiment, or of the command line, which applies to each.
void apply(Experiment& experiment, const std::string& key, const std::string& value,
           const std::string& where) {
  if (!is_axis(key, value)) {
    experiment.base.set(key, value, where);
    return;
  }
  Axis axis = parse_axis(key, value, where);
  TrialOptions probe = experiment.base;  // unknown keys and values are refused with their line
  for (const auto& tuple : axis.values) {
    for (size_t i = 0; i < axis.keys.size(); ++i) probe.set(axis.keys[i], tuple[i], where);
  }
  const std::set<std::vector<std::string>> distinct(axis.values.begin(), axis.values.end());
  if (distinct.size() != axis.values.size()) refuse_line(where, concat(key, ": a value twice"));
  experiment.axes.push_back(std::move(axis));
}

// The product of the axes; more than kMostCells: refused before it is counted on.
size_t count_cells(const Experiment& experiment) {
  size_t cells = 1;
  for (const Axis& axis : experiment.axes) {
    if (axis.values.size() > kMostCells / cells) {
      throw UsageError(concat("[experiment ", experiment.name, "]: more than ", kMostCells,
                              " cells; expected at most ", kMostCells, " in a study"),
                       ExitCode::kConfig);
    }
    cells *= axis.values.size();
  }
  return cells;
}

void check_axes(const Experiment& experiment) {
  std::set<std::string> seen;
  for (const Axis& axis : experiment.axes) {
    for (const std::string& key : axis.keys) {
      if (!seen.insert(key).second) {
        throw UsageError(
            concat("[experiment ", experiment.name, "]: two axes move ", key, "; keep one of them"),
            ExitCode::kConfig);
      }
    }
  }
  for (const auto& [key, instead] : not_of_studies()) {
    if (seen.count(key) == 0 && experiment.base.train.set_keys.count(key) == 0) continue;
    throw option_error(experiment.base.train, key, "does nothing in a study: " + instead);
  }
  for (const std::string& key : keys_of_job()) {
    if (seen.count(key) == 0) continue;
    throw UsageError(concat(key, " is of the whole job and cannot be an axis; set it in [run]"),
                     ExitCode::kConfig);
  }
}

void check_alike(const std::vector<Experiment>& experiments) {
  const Experiment& first = experiments.front();
  for (const Experiment& experiment : experiments) {
    for (const std::string& key : keys_of_job()) {
      if (experiment.base.get(key) == first.base.get(key)) continue;
      throw UsageError(concat("[experiment ", experiment.name, "]: ", key,
                              " is of the whole job: give it once, in [run]"),
                       ExitCode::kConfig);
    }
  }
}

std::string name_of(const std::vector<std::pair<std::string, std::string>>& settings) {
  std::string name;
  for (const auto& [key, value] : settings) {
    name += (name.empty() ? "" : ",") + key + "=";
    for (const char c : value) {
      const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '-' ||
                         c == '_' || c == '+';
      name += c == ',' ? 'x' : plain ? c : '_';
    }
  }
  if (name.empty()) return "all";
  if (name.size() <= kLongestName) return name;
  std::string whole;
  for (const auto& [key, value] : settings) whole += concat(key, "=", value, "\n");
  return name.substr(0, kLongestName - 17) + "-" + sha256({whole}).substr(0, 16);
}

}  // namespace

const char* study_grammar() {
  return R"(
Study files

A study file is a training's file ([data] to [run]) with [study], [tune], [measure] and one or more
[experiment NAME], in which keys are written in full:

  [experiment steps]
  train.batch = 32 | 128 | 512                  an axis: each of the values is tried
  train.lr = 0.01 .. 1 by *10                   a range: 0.01, 0.1, 1 (by 5 adds, by *2 multiplies)
  norm.kind & norm.batch = none & global | batch & 32       keys that move together
  train.epochs = 3                              one value, for this experiment alone

The axes of an experiment form their product, whose elements are its cells. study.seeds, tune.lr,
tune.seeds, measure.targets and measure.noise_law are lists and no axes: study.seeds = 1 .. 5 are
five runs of each cell, and study.seeds = 5 is one, with seed 5. Every key is an option of the
command line too and replaces the file's lines for it; a list needs quotes there, since '|' means
something to a shell: --tune.lr '0.1 | 0.3'. docs/studies.md tells more.
)";
}

std::vector<Experiment> parse_study(const CommandLine& line, const std::string& text,
                                    const std::string& name) {
  std::vector<std::string> keys = option_keys();
  const auto study_keys = keys_of(StudyOptions());
  keys.insert(keys.end(), study_keys.begin(), study_keys.end());
  const auto sections = sections_of(keys);
  std::vector<Experiment> experiments;
  const auto named = [&](const std::string& section) {
    return std::find_if(experiments.begin(), experiments.end(), [&](const Experiment& experiment) {
      return experiment.name == experiment_name(section);
    });
  };
  TrialOptions base;
  base.train.seed.split = 1;  // trials of all seeds share the data
  const auto given = [&](const std::string& key) {
    return std::any_of(line.settings.begin(), line.settings.end(),
                       [&](const auto& setting) { return mentions(key, setting.first); });
  };

  const auto check_section = [&](const std::string& section, const std::string& where) {
    if (!is_experiment(section)) return check_known_section(section, sections, where);
    experiments.push_back({checked_name(section, where), {}, {}});
    if (named(section) + 1 == experiments.end()) return;
    refuse_line(where, concat("a second [", section, "]; give it another name"));
  };
  const auto settings = parse_ini(text, name, check_section);
  for (const IniSetting& setting : settings) {
    const std::string key = setting.section + "." + setting.key;
    if (!is_experiment(setting.section) && !given(key)) base.set(key, setting.value, setting.where);
  }
  for (Experiment& experiment : experiments) experiment.base = base;
  for (const IniSetting& setting : settings) {
    if (!is_experiment(setting.section)) continue;
    if (given(setting.key)) {
      if (setting.key.find('&') == std::string::npos) continue;
      refuse_line(setting.where, concat("the command line sets one of ", setting.key,
                                        ", which move together; change the file instead"));
    }
    apply(*named(setting.section), setting.key, setting.value, setting.where);
  }
  if (experiments.empty()) {
    throw UsageError(concat(name, " has no [experiment NAME]; a study needs at least one (--help; ",
                            "configs/studies), and a training's file is run with syncbn-train"),
                     ExitCode::kConfig);
  }
  size_t cells = 0;
  for (Experiment& experiment : experiments) {
    for (const auto& [key, value] : line.settings) apply(experiment, key, value, "");
    check_axes(experiment);
    cells += count_cells(experiment);
    if (cells > kMostCells) {
      throw UsageError(concat(name, ": more than ", kMostCells, " cells in all experiments; ",
                              "expected at most ", kMostCells, " in a study"),
                       ExitCode::kConfig);
    }
    try {
      validate(experiment.base.study);
    } catch (const UsageError& error) {  // begins with its key
      const std::string message = error.what();
      const bool from_line = given(message.substr(0, message.find(':')));
      throw UsageError(
          concat("[experiment ", experiment.name, "]: ", from_line ? "--" : "", message),
          from_line ? ExitCode::kUsage : ExitCode::kConfig);
    }
  }
  check_alike(experiments);
  return experiments;
}

std::vector<Cell> cells_of(const Experiment& experiment) {
  std::vector<Cell> cells = {{experiment.name, "", {}, experiment.base}};
  for (const Axis& axis : experiment.axes) {
    std::vector<Cell> product;
    for (const Cell& cell : cells) {
      for (const auto& tuple : axis.values) {
        product.push_back(cell);
        for (size_t i = 0; i < axis.keys.size(); ++i) {
          product.back().settings.emplace_back(axis.keys[i], tuple[i]);
          product.back().options.set(axis.keys[i], tuple[i], axis.where);
        }
      }
    }
    cells = std::move(product);
  }
  std::set<std::string> names;
  for (Cell& cell : cells) {
    cell.name = name_of(cell.settings);
    try {
      validate(cell.options.train);
      validate(cell.options.study);
    } catch (const UsageError& error) {
      throw UsageError(
          concat("[experiment ", experiment.name, "], cell ", cell.name, ": ", error.what()),
          ExitCode::kConfig);
    }
    SYNCBN_CHECK(names.insert(cell.name).second, "two cells are named ", cell.name);
  }
  return cells;
}

}  // namespace syncbn
