// A study's file: what is the same in all of its trainings, and experiments, each with axes over
// any key.
//
//   [train]                              sections as in a training's file: the base
//   epochs = 5
//   [study]                              and those of study/study_options.hpp
//   seeds = 1 .. 5
//   [experiment steps]                   keys in full; a list or range is an axis
//   train.batch = 16 .. 1024 by *4
//   norm.kind & norm.batch = none & global | batch & 32          several keys that move together
//   tune.lr = 0.01 .. 1 by *3.162        a list by nature: no axis
//
// The axes of an experiment form their product; each element is a cell. What the command line sets
// replaces the file's lines for the same key, in the base and in every experiment, axis or not.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "study/study_options.hpp"

namespace syncbn {

/// Keys that move together and the values that they take, one per key.
struct Axis {
  std::vector<std::string> keys;
  std::vector<std::vector<std::string>> values;
  std::string where;  ///< of its line; empty: the command line
};

struct Experiment {
  std::string name;
  TrialOptions base;  ///< of the whole experiment; the axes' keys at their defaults
  std::vector<Axis> axes;
};

/// A point of an experiment's product of axes. Its trials differ in seed and tuned rate alone.
struct Cell {
  std::string experiment, name;  ///< name: "train.batch=16,norm.kind=none"; "all" without axes
  std::vector<std::pair<std::string, std::string>> settings;  ///< the axes' keys, in order
  TrialOptions options;
  std::string folder() const { return experiment + "/" + name; }
};

/// What a study file holds, for --help.
const char* study_grammar();

/// The experiments of a file's text and the command line's settings, in order. Every option's value
/// is checked where it needs no rank count and no data; there are 100,000 cells at most. Throws
/// UsageError: 78 with the file's line, 64 for the command line.
std::vector<Experiment> parse_study(const CommandLine& line, const std::string& text,
                                    const std::string& name);

/// The cells of an experiment, the last axis fastest. Throws UsageError as parse_study, naming the
/// cell.
std::vector<Cell> cells_of(const Experiment& experiment);

}  // namespace syncbn
