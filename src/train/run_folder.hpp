// A run's folder: config.ini, metadata.json, metrics.csv, metrics.jsonl, checkpoints/,
// model.safetensors, best.safetensors.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/file.hpp"
#include "base/options.hpp"
#include "comm/runtime.hpp"
#include "data/dataset.hpp"
#include "train/metrics.hpp"

namespace syncbn {

/// Made and written by rank 0 on behalf of all. Every member is collective over the world, and what
/// fails on rank 0 is thrown on every rank as UsageError with its code (73 to create, 74 to write).
class RunFolder {
 public:
  /// Creates the folder `options.run.out`, or a new runs/<config>-<time>[-2, …], with its parents,
  /// and takes its lock. A folder that is not empty is refused unless --overwrite, which removes
  /// the files of the run before and nothing else, or --resume, which leaves them; --overwrite of a
  /// folder that is not a run's is refused. A folder that a running job holds is refused. What
  /// killed runs left half-written is removed.
  RunFolder(Runtime& runtime, const Options& options, const CommandLine& line);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::string& path() const { return path_; }
  /// Whether a run ended here; rank 0, not collective.
  bool has_model() const;
  /// Whether its metadata say that the run ended after `step` steps and its model is there; rank 0,
  /// not collective.
  bool is_complete(int64_t step) const;
  /// What metadata.json holds; an empty object if it cannot be read. Rank 0, not collective.
  nlohmann::json metadata() const;
  /// Throws Error(kInputDamaged) if the metrics files are not what a checkpoint after `rows` epochs
  /// counts on; rank 0, not collective.
  void check_metrics(MetricsFiles::Bytes keep, int64_t rows) const;
  std::string checkpoints() const { return path_ + "/checkpoints"; }
  /// Writes config.ini and opens the metrics files, which keep the rows that a checkpoint counts.
  void begin(const Options& options, MetricsFiles::Bytes keep);
  /// On rank 0, not collective: what the metrics files hold, once it is on the disk.
  MetricsFiles::Bytes flush_metrics() const;
  void write_metadata(const std::string& json);
  void append(const MetricsRow& row);
  void write_model(const std::string& safetensors);
  void write_best(const std::string& safetensors);

 private:
  void create(const CommandLine& line);
  void write(const std::string& name, const std::string& bytes);

  Runtime& runtime_;
  std::string path_;
  std::unique_ptr<FileLock> lock_;         // rank 0: while the run lasts
  std::unique_ptr<MetricsFiles> metrics_;  // rank 0
};

}  // namespace syncbn
