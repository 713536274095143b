// Metrics: one row per epoch, one table of columns, three sinks (CSV, JSON lines, the console).
//
// To add a metric: a field of MetricsRow and a line of `for_each_column`.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "base/file.hpp"
#include "base/options_table.hpp"

namespace syncbn {

struct MetricsRow {
  int64_t epoch = 0;    // 1 after the first
  int64_t step = 0;     // steps done since the start
  int64_t samples = 0;  // samples trained on since the start, over all ranks
  double seconds = 0;   // since the first step, evaluations included
  double train_loss = 0, train_accuracy = 0;
  double val_loss = 0, val_accuracy = 0, val_error = 0;
  double lr = 0;
  double samples_per_s = 0;  // of this epoch's training alone
  double data_s = 0, forward_s = 0, backward_s = 0;
  double norm_comm_s = 0, gradient_comm_s = 0, optimizer_s = 0;
  int64_t peak_memory_bytes = 0;
  // NaN, an empty field, where the test set was not looked at.
  double test_loss = std::numeric_limits<double>::quiet_NaN();
  double test_accuracy = test_loss, test_error = test_loss;
  std::vector<int64_t> rank_peak_memory_bytes;  // JSON only
};

/// Calls f("train_loss", field, "what it is") for each column, in the order of the CSV file.
template <class Row, class F, OnlyFor<Row, MetricsRow> = 0>
void for_each_column(Row& row, F&& f) {
  f("epoch", row.epoch, "epochs done");
  f("step", row.step, "steps done");
  f("samples", row.samples, "samples trained on, over all ranks");
  f("seconds", row.seconds, "since the first step, evaluations included");
  f("train_loss", row.train_loss, "mean over the epoch's samples, as they were met");
  f("train_accuracy", row.train_accuracy, "of the epoch's samples, as they were met");
  f("val_loss", row.val_loss, "mean over the validation samples");
  f("val_accuracy", row.val_accuracy, "an exact ratio: each sample once");
  f("val_error", row.val_error, "1 - val_accuracy");
  f("lr", row.lr, "learning rate of the epoch's last step");
  f("samples_per_s", row.samples_per_s, "of the epoch's training, over all ranks");
  f("data_s", row.data_s, "seconds of the epoch, mean over ranks: gathering samples");
  f("forward_s", row.forward_s, "forward and loss, without norm communication");
  f("backward_s", row.backward_s, "backward, without norm communication");
  f("norm_comm_s", row.norm_comm_s, "collectives of the norm layers, waiting included");
  f("gradient_comm_s", row.gradient_comm_s, "all-reduce of the gradient, waiting included");
  f("optimizer_s", row.optimizer_s, "optimizer");
  f("peak_memory_bytes", row.peak_memory_bytes, "largest over ranks: resident set, or GPU memory");
  f("test_loss", row.test_loss,
    "mean over the test samples: in each row with data.validation = test, else in the last alone");
  f("test_accuracy", row.test_accuracy, "an exact ratio: each sample once");
  f("test_error", row.test_error, "1 - test_accuracy");
}

/// metrics.csv (RFC 4180, header first) and metrics.jsonl (one object per line) of a run's folder,
/// flushed row by row. Used by rank 0 alone. Throws Error as LineFile does.
class MetricsFiles {
 public:
  /// What of the files a checkpoint knows; later rows are of steps that will be taken again.
  struct Bytes {
    int64_t csv = 0, jsonl = 0;
  };
  /// A file that is kept keeps its columns, those of an earlier version for instance: a row leaves
  /// out what they do not name, and has an empty field where it knows no such column.
  MetricsFiles(const std::string& folder, Bytes keep);
  /// Throws Error(kInputDamaged) unless the files begin with these bytes, and these are a header
  /// and `rows` whole rows. Changes nothing.
  static void check(const std::string& folder, Bytes keep, int64_t rows);
  void append(const MetricsRow& row);
  /// Returns what the files hold, once it is on the disk.
  Bytes flush() const { return {csv_.flush(), jsonl_.flush()}; }

 private:
  std::vector<std::string> columns_;  // of the CSV file
  LineFile csv_, jsonl_;
};

/// The header of a table on the console, and a row of it; `measured`: what val_… are of, "val" or
/// "test".
std::string console_header(const std::string& measured);
std::string console_row(const MetricsRow& row);

}  // namespace syncbn
