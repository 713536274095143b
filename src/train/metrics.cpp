#include "train/metrics.hpp"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/csv.hpp"

namespace syncbn {

MetricsFiles::MetricsFiles(const std::string& folder, Bytes keep)
    : csv_(folder + "/metrics.csv", keep.csv), jsonl_(folder + "/metrics.jsonl", keep.jsonl) {
  if (keep.csv == 0) csv_.append(csv_line(MetricsRow{}, /*header=*/true));
}

void MetricsFiles::append(const MetricsRow& row) {
  csv_.append(csv_line(row, /*header=*/false));
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
