// Tables of a trial: rows whose columns `for_each_column(row, f)` names, as CSV.
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

/// Header and rows (RFC 4180 but for its line ends).
template <class Row>
std::string to_csv(const std::vector<Row>& rows) {
  std::string csv;
  const auto line = [&](const Row& row, bool header) {
    std::string fields;
    for_each_column(row, [&](const char* name, const auto& value) {
      fields += (fields.empty() ? "" : ",") + (header ? std::string(name) : csv_field(value));
    });
    csv += fields + "\n";
  };
  line(Row{}, true);
  for (const Row& row : rows) line(row, false);
  return csv;
}

}  // namespace syncbn
