// Whether a folder holds the study that is planned.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "study/plan.hpp"

namespace syncbn {

/// Every option of a training, as `set_option` takes it.
nlohmann::ordered_json options_json(const Options& options);

/// cell.json: the cell's settings and every option.
nlohmann::ordered_json cell_json(const Cell& cell);

/// What decides results and differs between the study in the folder `path`, whose study.json is
/// `before`, and `plan` with its study.json `now`: a clause for each cell, option, data set or
/// device, the first few. None: the folder's trials are the plan's. An option that an earlier
/// version did not know had its default.
std::vector<std::string> differences(const std::string& path, const nlohmann::ordered_json& before,
                                     const Plan& plan, const nlohmann::ordered_json& now);

}  // namespace syncbn
