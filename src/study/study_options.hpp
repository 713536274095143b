// The options of a study, beside those of its trainings: what is repeated, tuned and measured.
//
// They are keys like the trainings' own: of the sections [study], [tune] and [measure], of an
// [experiment NAME] section, and of the command line.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "base/options.hpp"

namespace syncbn {

struct StudyOptions {
  // [study]
  std::string title, out;
  std::string seeds = "1 .. 3";
  int64_t ranks = 1;
  std::string impossible = "refuse";  // refuse | drop
  std::string stop = "none";          // none | target | plateau
  // [tune]
  std::string lr;
  std::string tune_seeds = "101 .. 102";
  std::string criterion = "val_accuracy";  // val_accuracy | val_loss | steps_to_target
  int64_t extend = 0;
  bool neighbours = false;
  // [measure]
  std::string targets = "0.03";
  double per_epoch = 8;
  int64_t every_steps = 0;
  int64_t full_every = 0;
  bool first = false;
  int64_t train_samples = 5000;
  int64_t population = 10000;
  std::string layers = "none";  // none | last | full
  int64_t noise_scale = 0;
  std::string noise_law;
  int64_t units = 0;
};

/// The one table, as for Options.
template <class O, class F, OnlyFor<O, StudyOptions> = 0>
void for_each_option(O& o, F&& f) {
  f("study.title", o.title, "the report's heading");
  f("study.out", o.out, "the study's folder [runs/study-<config>]");
  f("study.seeds", o.seeds, "seeds of the final trials: 1 .. 3, or 1 | 5 | 7");
  f("study.ranks", o.ranks, "ranks of one trial");
  f("study.impossible", o.impossible,
    "cells that cannot be run (M that does not divide B): refuse | drop");
  f("study.stop", o.stop,
    "end a trial early: none | target (all are reached) | plateau (10 epochs without a lower "
    "training loss)");
  f("tune.lr", o.lr, "learning rates to choose train.lr from, cell by cell; empty: train.lr");
  f("tune.seeds", o.tune_seeds, "seeds of the trials that choose");
  f("tune.criterion", o.criterion,
    "chosen by the median over seeds of: val_accuracy | val_loss | steps_to_target (the first)");
  f("tune.extend", o.extend, "rates to try beyond an end of the list that turns out best");
  f("tune.neighbours", o.neighbours,
    "run the final trials at both neighbours of the chosen rate too: true | false");
  f("measure.targets", o.targets, "validation errors to reach: 0.05 | 0.03");
  f("measure.per_epoch", o.per_epoch, "evaluations per epoch, at least 10 steps apart");
  f("measure.every_steps", o.every_steps, "instead: steps between evaluations (0: per_epoch)");
  f("measure.full_every", o.full_every,
    "every n-th evaluation is full: all splits, all statistics (0: the last alone)");
  f("measure.first", o.first, "a full evaluation before the first step too: true | false");
  f("measure.train_samples", o.train_samples, "training samples of a full evaluation");
  f("measure.population", o.population,
    "training samples behind recomputed statistics and measurements of layers");
  f("measure.layers", o.layers,
    "measure statistics' noise and gradients by layer: none | last | full (evaluations)");
  f("measure.noise_scale", o.noise_scale,
    "batches behind the gradient noise scale at full evaluations (0: off)");
  f("measure.noise_law", o.noise_law,
    "M to measure the noise of statistics at, in the final network: 2 .. 128 by *2");
  f("measure.units", o.units, "units of the last hidden layer to follow (0: off)");
}

/// The keys of a study and of its trainings, in one.
struct TrialOptions {
  Options train;
  StudyOptions study;

  /// Sets a key of either. Throws UsageError as set_option of base/options.hpp.
  void set(const std::string& key, const std::string& value, const std::string& where = "");
  /// The text of a key of either. Throws UsageError on an unknown key.
  std::string get(const std::string& key) const;
};

/// "16 | 32 | 64", "1 .. 5", "0 .. 1 by 0.25", "0.01 .. 3.2 by *2" or a single value → the values'
/// texts. Ranges end at the last value that is not above the end; factors give 4 significant
/// digits, and whole numbers where both ends and the factor are whole. Throws UsageError naming
/// `key`: a range that is not one, or of one value though its ends differ; more than 10,000 values.
std::vector<std::string> parse_list(const std::string& key, const std::string& text);

/// The same, as numbers. Throws UsageError naming `key` where one is none.
std::vector<double> parse_numbers(const std::string& key, const std::string& text);
std::vector<int64_t> parse_integers(const std::string& key, const std::string& text);

/// A number in 4 significant digits.
std::string four_digits(double value);

/// Checks every value of `study`. Throws UsageError: key, value, expected.
void validate(const StudyOptions& study);

/// How many trials of a cell are sure to come, those that tune and the final ones, and how many at
/// most with their neighbours. `study` is valid, so that both are below 2^28.
int64_t planned_trials(const StudyOptions& study);
int64_t most_trials(const StudyOptions& study);

/// What looks like a number of runs and is one seed: "study.seeds = 5 is one run, with seed 5; 1 ..
/// 5 are 5 runs"; "" where nothing does.
std::string seeds_note(const StudyOptions& study);

}  // namespace syncbn
