// A study's folder: study / experiment / cell / trial, as files that are never seen half-written.
//
//   study.ini, study.json, ledger.csv
//   <experiment>/<cell>/cell.json, tuning.json
//   <experiment>/<cell>/<trial>/metadata.json and tables (CSV)
//
// Shared by all ranks of one or several jobs through the file system; nothing here is collective
// or talks to another rank. A trial is finished when its metadata.json says COMPLETE or DIVERGED,
// which is written last, and its tables are there. A trial is claimed by a lock that the system
// drops when its holder dies.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "base/file.hpp"
#include "study/plan.hpp"

namespace syncbn {

class StudyFolder {
 public:
  StudyFolder(std::string path, const Plan& plan) : path_(std::move(path)), plan_(plan) {}

  const std::string& path() const { return path_; }

  /// Throws Error(kCannotCreate) where `create` would: a place where no folder can be made or
  /// written, another study, saying what differs, or other files. Writes nothing.
  void check(const std::string& study_ini, const nlohmann::ordered_json& study_json) const;
  /// Makes the folder with study.ini, study.json and every cell.json, where they are not there or
  /// damaged. Throws as `check`.
  void create(const std::string& study_ini, const nlohmann::ordered_json& study_json);

  /// What a finished trial found; null if it is not finished. Remembered once found.
  const Outcome* outcome(const Trial& trial);
  /// The same without looking at the disk.
  const Outcome* known(const Trial& trial) const;
  /// The lock of a trial that nobody holds; null if a running job has it.
  std::unique_ptr<FileLock> claim(const Trial& trial);

  void write_metadata(const Trial& trial, const nlohmann::ordered_json& metadata);
  /// A table of a trial, named "measurements.csv".
  void write_table(const Trial& trial, const std::string& name, const std::string& csv);
  void write_tuning(size_t cell, const Tuning& tuning);
  /// ledger.csv from the metadata of all finished trials. Removes the locks of holders that died.
  void write_ledger();

 private:
  // A finished trial, and its line of the ledger.
  struct Finished {
    Outcome outcome;
    double started = 0;
    std::string ledger;
  };
  static Finished finished_from(const nlohmann::ordered_json& metadata, const std::string& trial);

  void check_place() const;
  bool check_content(const std::string& study_ini, const nlohmann::ordered_json& study_json) const;

  std::string folder(const Trial& trial) const { return path_ + "/" + plan_.folder_of(trial); }

  std::string path_;
  const Plan& plan_;
  std::map<std::string, Finished> finished_;  // by folder
};

/// Seconds since 1970.
double unix_time();

}  // namespace syncbn
