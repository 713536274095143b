#include "train/metrics.hpp"

#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "base/csv.hpp"
#include "base/options_text.hpp"

namespace syncbn {

namespace {

constexpr uint64_t kLargestFile = uint64_t{1} << 30;

// The columns that a metrics file has, or shall have.
std::vector<std::string> columns_of(const std::string& path, int64_t keep) {
  std::string header = csv_line(MetricsRow{}, /*header=*/true);
  if (keep > 0) {
    const FileBytes file =
        read_regular_file(path, "metrics file", kLargestFile, ExitCode::kInputDamaged);
    const std::string_view bytes(reinterpret_cast<const char*>(file.data.get()), file.size);
    header = bytes.substr(0, bytes.find('\n'));
  }
  return split(header, ',');
}

}  // namespace

MetricsFiles::MetricsFiles(const std::string& folder, Bytes keep)
    : columns_(columns_of(folder + "/metrics.csv", keep.csv)),
      csv_(folder + "/metrics.csv", keep.csv),
      jsonl_(folder + "/metrics.jsonl", keep.jsonl) {
  if (keep.csv == 0) csv_.append(csv_line(MetricsRow{}, /*header=*/true));
}

void MetricsFiles::append(const MetricsRow& row) {
  std::map<std::string, std::string> fields;
  for_each_column(row, [&](const char* name, const auto& value, const char*) {
    fields[name] = csv_field(value);
  });
  std::string line;
  for (size_t i = 0; i < columns_.size(); ++i) line += (i == 0 ? "" : ",") + fields[columns_[i]];
  csv_.append(line);
  nlohmann::ordered_json object;
  for_each_column(row,
                  [&](const char* name, const auto& value, const char*) { object[name] = value; });
  object["rank_peak_memory_bytes"] = row.rank_peak_memory_bytes;
  jsonl_.append(object.dump());
}

std::string console_header() {
  return "  epoch     step   train loss  accuracy    val loss  accuracy   samples/s     time";
}

std::string console_row(const MetricsRow& row) {
  char line[160];
  std::snprintf(line, sizeof line,
                "  %5lld %8lld   %10.5f  %7.2f%%  %10.5f  %7.2f%%  %10.0f  %6.1fs",
                static_cast<long long>(row.epoch), static_cast<long long>(row.step), row.train_loss,
                100 * row.train_accuracy, row.val_loss, 100 * row.val_accuracy, row.samples_per_s,
                row.seconds);
  return line;
}

}  // namespace syncbn
