#include "study/study_folder.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/log.hpp"
#include "study/study_match.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr uint64_t kLargestMetadata = uint64_t{1} << 24;  // bytes

std::string text_of(const Json& json) {
  constexpr int kIndent = 1;
  return json.dump(kIndent, ' ', false, Json::error_handler_t::replace) + "\n";
}

// A JSON file, or null if it is missing. One that is damaged is told and counts as missing: what it
// tells is found anew.
Json read_json(const std::string& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return nullptr;
  const FileBytes bytes =
      read_regular_file(path, "study file", kLargestMetadata, ExitCode::kInputDamaged);
  const auto* const begin = bytes.data.get();
  Json json = Json::parse(begin, begin + bytes.size, nullptr, /*allow_exceptions=*/false);
  if (!json.is_discarded()) return json;
  log_warning("'" + path + "' is damaged, and what it held is found or run again");
  return nullptr;
}

bool is_finished(const Json& metadata) {
  if (!metadata.is_object() || !metadata.contains("status")) return false;
  const Json& status = metadata.at("status");
  return status == "COMPLETE" || status == "DIVERGED";
}

Json optional_json(const std::optional<double>& value) {
  return value ? Json(*value) : Json(nullptr);
}

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw Error(concat("cannot use the study's folder ", quoted(path), ": ", why,
                     "; name another with --study.out"),
              ExitCode::kCannotCreate);
}

// Nothing but what a job leaves that was killed while it began.
bool is_fresh(const std::string& path) {
  const auto entries = fs::directory_iterator(path);
  return std::all_of(begin(entries), end(entries), [](const fs::directory_entry& entry) {
    const std::string name = entry.path().filename();
    return name == ".lock" || name.find(".tmp-") != std::string::npos;
  });
}

bool holds_text(const std::string& path, const std::string& text) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return false;
  const FileBytes bytes =
      read_regular_file(path, "study file", kLargestMetadata, ExitCode::kInputDamaged);
  return text.size() == bytes.size &&
         std::equal(text.begin(), text.end(), reinterpret_cast<const char*>(bytes.data.get()));
}

// Waits for whoever holds it, but not for long: it is held for a moment.
std::unique_ptr<FileLock> lock(const std::string& path) {
  constexpr auto kPause = std::chrono::milliseconds(20);
  constexpr int kTries = 1000;
  for (int i = 0; i < kTries; ++i) {
    try {
      if (auto taken = FileLock::take(path)) return taken;
    } catch (const Error& error) {
      refuse(path, error.what());
    }
    std::this_thread::sleep_for(kPause);
  }
  refuse(path, "another job has held it for 20 s");
}

}  // namespace

double unix_time() {
  using namespace std::chrono;
  return duration<double>(system_clock::now().time_since_epoch()).count();
}

// The folder itself, or the nearest one above it that is there.
void StudyFolder::check_place() const {
  std::error_code ignored;
  fs::path at = fs::absolute(path_);
  while (!fs::exists(at, ignored) && at.has_relative_path()) at = at.parent_path();
  if (!fs::is_directory(at, ignored)) {
    refuse(path_, at == fs::absolute(path_) ? "it is not a folder"
                                            : quoted(at.string()) + " is not a folder");
  }
  if (::access(at.c_str(), W_OK | X_OK) != 0) {
    refuse(path_, concat(quoted(at.string()), ": ", std::strerror(errno)));
  }
}

// Whether the folder holds this study's description.
bool StudyFolder::check_content(const std::string& study_ini, const Json& study_json) const {
  const Json before = read_json(path_ + "/study.json");
  const bool known = before.is_object() && before.contains("fingerprint");
  if (!known && !is_fresh(path_) && !holds_text(path_ + "/study.ini", study_ini)) {
    refuse(path_, "it holds other files");
  }
  if (!known || before.at("fingerprint") == study_json.at("fingerprint")) return known;
  // The fingerprint of a version that knew fewer options is another one for the same study.
  std::string clauses;
  for (const std::string& clause : differences(path_, before, plan_, study_json)) {
    clauses += (clauses.empty() ? "" : "; ") + clause;
  }
  if (!clauses.empty()) refuse(path_, "it holds another study: " + clauses);
  return true;
}

void StudyFolder::check(const std::string& study_ini, const Json& study_json) const {
  check_place();
  std::error_code ignored;
  if (fs::exists(path_, ignored)) check_content(study_ini, study_json);
}

void StudyFolder::create(const std::string& study_ini, const Json& study_json) {
  check_place();
  std::error_code failed;
  fs::create_directories(path_, failed);
  if (failed) refuse(path_, failed.message());
  const auto alone = lock(path_ + "/.lock");  // two jobs may begin at once
  const bool known = check_content(study_ini, study_json);
  if (!known) write_file(path_ + "/study.json", text_of(study_json));
  write_file(path_ + "/study.ini", study_ini);
  for (const Cell& cell : plan_.cells) {
    const std::string folder = path_ + "/" + cell.folder();
    fs::create_directories(folder, failed);
    if (failed) refuse(path_, concat(cell.folder(), ": ", failed.message()));
    if (read_json(folder + "/cell.json").is_null()) {
      write_file(folder + "/cell.json", text_of(cell_json(cell)));
    }
  }
}

const Outcome* StudyFolder::known(const Trial& trial) const {
  const auto found = finished_.find(folder(trial));
  return found == finished_.end() ? nullptr : &found->second.outcome;
}

StudyFolder::Finished StudyFolder::finished_from(const Json& metadata, const std::string& trial) {
  Finished found;
  found.outcome.diverged = metadata.at("status") == "DIVERGED";
  const auto number = [&](const char* key) {
    const Json& value = metadata.at("final").at(key);
    return value.is_number() ? value.get<double>() : NAN;
  };
  found.outcome.val_accuracy = number("val_accuracy");
  found.outcome.val_loss = number("val_loss");
  const Json& targets = metadata.at("targets");
  if (!targets.empty() && targets[0].at("steps").is_number()) {
    found.outcome.first_target_steps = targets[0].at("steps").get<int64_t>();
  }
  found.started = metadata.at("started");
  found.ledger = '"' + trial + '"';
  for (const char* key : {"stage", "status"})
    found.ledger += "," + metadata.at(key).get<std::string>();
  for (const char* key : {"ranks", "first_rank"}) found.ledger += "," + metadata.at(key).dump();
  found.ledger += "," + metadata.at("host").get<std::string>();
  for (const char* key : {"started", "finished"}) found.ledger += "," + metadata.at(key).dump();
  return found;
}

const Outcome* StudyFolder::outcome(const Trial& trial) {
  if (const Outcome* found = known(trial)) return found;
  const std::string at = folder(trial);
  const Json metadata = read_json(at + "/metadata.json");
  if (!is_finished(metadata)) return nullptr;
  try {
    if (metadata.at("lr") != trial.lr) {
      log_warning(concat("'", at, "' is of the learning rate ", metadata.at("lr").dump(),
                         ", expected ", trial.lr, ", and is made anew"));
      return nullptr;
    }
    // Tables that an earlier version did not list, but for the one that every trial has.
    const Json tables = metadata.value("tables", Json::array({"measurements.csv"}));
    for (const Json& table : tables) {
      std::error_code ignored;
      if (fs::is_regular_file(at + "/" + table.get<std::string>(), ignored)) continue;
      log_warning(
          concat("'", at, "' has lost its ", table.get<std::string>(), " and is run again"));
      return nullptr;
    }
    Finished found = finished_from(metadata, plan_.folder_of(trial));
    return &finished_.emplace(at, std::move(found)).first->second.outcome;
  } catch (const Json::exception& error) {
    log_warning(concat("'", at, "/metadata.json' is damaged and is made anew: ", error.what()));
    return nullptr;
  }
}

std::unique_ptr<FileLock> StudyFolder::claim(const Trial& trial) {
  const std::string at = folder(trial);
  std::error_code failed;
  fs::create_directories(at, failed);
  if (failed) refuse(path_, concat("'", at, "' is not to be made: ", failed.message()));
  try {
    return FileLock::take(at + "/.lock");
  } catch (const Error& error) {
    refuse(path_, concat("'", at, "' cannot be locked: ", error.what()));
  }
}

void StudyFolder::write_metadata(const Trial& trial, const Json& metadata) {
  Json whole = metadata;
  whole["options"] = options_json(plan_.options_of(trial));
  write_file(folder(trial) + "/metadata.json", text_of(whole));
}

void StudyFolder::write_table(const Trial& trial, const std::string& name, const std::string& csv) {
  write_file(folder(trial) + "/" + name, csv);
}

void StudyFolder::write_tuning(size_t cell, const Tuning& tuning) {
  const std::string path = path_ + "/" + plan_.cells[cell].folder() + "/tuning.json";
  Json curve = Json::array();
  for (const Tuning::Rate& rate : tuning.curve) {
    Json values = Json::array();
    for (const auto& value : rate.values) values.push_back(optional_json(value));
    curve.push_back({{"lr", rate.lr},
                     {"values", values},
                     {"median", optional_json(rate.median)},
                     {"diverged", rate.diverged}});
  }
  const Json json = {
      {"key", "train.lr"},           {"criterion", plan_.cells[cell].options.study.criterion},
      {"chosen", tuning.chosen},     {"edge", tuning.edge},
      {"fallback", tuning.fallback}, {"curve", curve}};
  if (read_json(path) != json) write_file(path, text_of(json));
}

void StudyFolder::write_ledger() {
  std::vector<const Finished*> lines;
  for (size_t c = 0; c < plan_.cells.size(); ++c) {
    const auto known = trials_of(plan_, c, [&](const Trial& trial) { return outcome(trial); });
    for (const Trial& trial : known.trials) {
      if (outcome(trial) != nullptr) lines.push_back(&finished_.at(folder(trial)));
      const std::string left = folder(trial) + "/.lock";
      std::error_code ignored;
      if (fs::exists(left, ignored))
        FileLock::take(left);  // and drop it, unless another job has it
    }
  }
  std::sort(lines.begin(), lines.end(),
            [](const Finished* a, const Finished* b) { return a->started < b->started; });
  std::string csv = "trial,stage,status,ranks,first_rank,host,start_s,end_s\n";
  for (const Finished* line : lines) csv += line->ledger + "\n";
  write_file(path_ + "/ledger.csv", csv);
}

}  // namespace syncbn
