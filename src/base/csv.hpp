// Rows whose columns `for_each_column(row, f)` names, as CSV (RFC 4180 but for its line ends):
// f("column", field, …).
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "base/options_text.hpp"

namespace syncbn {

/// A number that was not measured is an empty field.
inline std::string csv_field(double value) {
  return std::isnan(value) ? "" : write_value(value);
}
inline std::string csv_field(int64_t value) {
  return write_value(value);
}
inline std::string csv_field(const std::string& value) {
  return value;  // names of layers: no comma, no quote
}

/// The row's fields, or its columns' names, without a line end.
template <class Row>
std::string csv_line(const Row& row, bool header) {
  std::string line;
  const char* comma = "";
  for_each_column(row, [&](const char* name, const auto& value, const auto&...) {
    line += comma + (header ? std::string(name) : csv_field(value));
    comma = ",";
  });
  return line;
}

/// Header and rows.
template <class Row>
std::string to_csv(const std::vector<Row>& rows) {
  std::string csv = csv_line(Row{}, /*header=*/true) + "\n";
  for (const Row& row : rows) csv += csv_line(row, /*header=*/false) + "\n";
  return csv;
}

}  // namespace syncbn
