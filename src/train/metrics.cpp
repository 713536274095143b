#include "train/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "base/csv.hpp"
#include "base/options_text.hpp"

namespace syncbn {

namespace {

constexpr uint64_t kLargestFile = uint64_t{1} << 30;

std::string content_of(const std::string& path) {
  const FileBytes file =
      read_regular_file(path, "metrics file", kLargestFile, ExitCode::kInputDamaged);
  return {reinterpret_cast<const char*>(file.data.get()), file.size};
}

// The columns that a metrics file has, or shall have.
std::vector<std::string> columns_of(const std::string& path, int64_t keep) {
  std::string header = csv_line(MetricsRow{}, /*header=*/true);
  if (keep > 0) {
    const std::string content = content_of(path);
    header = content.substr(0, content.find('\n'));
  }
  return split(header, ',');
}

void check_lines(const std::string& path, int64_t keep, int64_t lines) {
  const std::string content = std::filesystem::exists(path) ? content_of(path) : "";
  const auto size = static_cast<int64_t>(content.size());
  if (size < keep) {
    throw Error(concat("'", path, "' has ", size, " bytes, and the checkpoint counts on ", keep,
                       ": it was cut or replaced since; put it back, or start the run anew"),
                ExitCode::kInputDamaged);
  }
  const std::string_view kept(content.data(), static_cast<size_t>(keep));
  const int64_t found = std::count(kept.begin(), kept.end(), '\n');
  if (found == lines && (kept.empty() || kept.back() == '\n')) return;
  throw Error(concat("the checkpoint counts on the first ", keep, " bytes of '", path,
                     "', expected ", lines, " whole lines in them, found ", found,
                     kept.empty() || kept.back() == '\n' ? "" : " and a part of one",
                     "; start the run anew"),
              ExitCode::kInputDamaged);
}

}  // namespace

void MetricsFiles::check(const std::string& folder, Bytes keep, int64_t rows) {
  check_lines(folder + "/metrics.csv", keep.csv, 1 + rows);
  check_lines(folder + "/metrics.jsonl", keep.jsonl, rows);
}

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

std::string console_header(const std::string& measured) {
  char line[160];
  std::snprintf(line, sizeof line,
                "  epoch     step   train loss  accuracy  %10s  accuracy   samples/s     time",
                (measured + " loss").c_str());
  return line;
}

namespace {

// With this many digits after the point; a dash for what was not measured.
std::string console_number(double value, int width, int digits, const char* unit = "") {
  char text[64];
  if (std::isnan(value)) {
    std::snprintf(text, sizeof text, "%*s%*s", width, "-", static_cast<int>(std::strlen(unit)), "");
  } else {
    std::snprintf(text, sizeof text, "%*.*f%s", width, digits, value, unit);
  }
  return text;
}

}  // namespace

std::string console_row(const MetricsRow& row) {
  char steps[64];
  std::snprintf(steps, sizeof steps, "  %5lld %8lld", static_cast<long long>(row.epoch),
                static_cast<long long>(row.step));
  return concat(
      steps, "   ", console_number(row.train_loss, 10, 5), "  ",
      console_number(100 * row.train_accuracy, 7, 2, "%"), "  ",
      console_number(row.val_loss, 10, 5), "  ", console_number(100 * row.val_accuracy, 7, 2, "%"),
      "  ", console_number(row.samples_per_s, 10, 0), "  ", console_number(row.seconds, 6, 1, "s"));
}

}  // namespace syncbn
