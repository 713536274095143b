#include "train/run_folder.hpp"

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "train/checkpoint.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLock = ".lock";
constexpr const char* kModel = "model.safetensors";
constexpr const char* kBest = "best.safetensors";
constexpr const char* kConfig = "config.ini";
constexpr const char* kMetadata = "metadata.json";
constexpr const char* kFiles[] = {kConfig,         kMetadata, "metrics.csv",
                                  "metrics.jsonl", kModel,    kBest};

std::string default_name(const std::string& config) {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char stamp[32];
  std::strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &local);
  const std::string name = config.empty() ? "train" : fs::path(config).stem().string();
  return "runs/" + name + "-" + stamp;
}

/// A new folder of the default name, with -2, -3, … for jobs that start in the same second.
std::string claim_default(const std::string& config) {
  const std::string name = default_name(config);
  std::error_code failed;
  fs::create_directories(fs::path(name).parent_path(), failed);
  std::string path = name;
  // Making the folder tells which job came first. A failure is told when the folder is used.
  for (int n = 2; !fs::create_directory(path, failed) && !failed; ++n) path = concat(name, '-', n);
  return path;
}

[[noreturn]] void refuse(const std::string& message) {
  throw Error(message, ExitCode::kCannotCreate);
}

/// Half of a file of ours, that `write_file` had under way in a run that was killed.
bool is_leftover(const std::string& name) {
  const size_t end = name.find(".tmp-");
  return end != name.npos &&
         std::find(std::begin(kFiles), std::end(kFiles), name.substr(0, end)) != std::end(kFiles);
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename());
  }
  return names;
}

bool holds_files(const fs::path& folder) {
  const std::vector<std::string> names = names_in(folder);
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return name != kLock && !is_leftover(name); });
}

void remove_leftovers(const fs::path& folder) {
  std::error_code ignored;  // what cannot be removed does no harm
  for (const std::string& name : names_in(folder)) {
    if (is_leftover(name)) fs::remove(folder / name, ignored);
  }
}

/// The content of a file of at most 1 MiB; "" if there is none to be read.
std::string small_file(const fs::path& path) {
  constexpr uint64_t kLargest = uint64_t{1} << 20;
  try {
    const FileBytes file = read_regular_file(path, "file", kLargest, ExitCode::kInputDamaged);
    return {reinterpret_cast<const char*>(file.data.get()), file.size};
  } catch (const Error&) {
    return "";
  }
}

/// A run's metadata; an empty object if there are none.
nlohmann::json metadata_in(const fs::path& folder) {
  const auto metadata = nlohmann::json::parse(small_file(folder / kMetadata), nullptr,
                                              /*allow_exceptions=*/false);
  return metadata.is_object() ? metadata : nlohmann::json::object();
}

/// Whether a run of ours wrote the folder's config.ini or, if there is none, its metadata.json.
bool is_run(const fs::path& folder) {
  const std::string own = to_ini(Options()), heading = own.substr(0, own.find('\n') + 1);
  if (small_file(folder / kConfig).rfind(heading, 0) == 0) return true;
  const nlohmann::json metadata = metadata_in(folder);
  const auto versions = metadata.find("versions");
  return !fs::exists(folder / kConfig) && metadata.contains("rank_devices") &&
         versions != metadata.end() && versions->is_object() && versions->contains("syncbn");
}

}  // namespace

RunFolder::RunFolder(Runtime& runtime, const Options& options, const CommandLine& line)
    : runtime_(runtime) {
  std::string wanted = options.run.out;
  if (wanted.empty() && runtime.rank() == 0) wanted = claim_default(line.config);
  path_ = runtime.world()->gather_text(wanted, {"the run's folder"}).front();
  try {
    agree(*runtime.world(), {"making the run's folder"}, [&] {
      if (runtime_.rank() == 0) create(line);
    });
  } catch (...) {
    lock_.reset();  // a refused folder stays as it was, for this process too
    throw;
  }
}

RunFolder::~RunFolder() = default;

void RunFolder::create(const CommandLine& line) {
  const auto cannot = [&](const std::string& why) {
    refuse(concat("cannot use the run's folder '", path_, "': ", why));
  };
  std::error_code failed;
  fs::create_directories(path_, failed);
  if (failed) cannot(failed.message() + "; name another with --run.out");
  if (!fs::is_directory(path_)) cannot("it is not a folder; name another with --run.out");
  try {
    lock_ = FileLock::take(path_ + "/" + kLock);
  } catch (const Error& error) {
    cannot(concat(error.what(), "; name another with --run.out"));
  }
  if (!lock_) cannot("another running job holds it; wait for it or name another with --run.out");
  const bool empty = !holds_files(path_);
  if (!empty && !line.resume && !line.overwrite) {
    cannot(
        "it is not empty; name another with --run.out, go on with the run with --resume, or "
        "replace it with --overwrite");
  }
  if (!empty && line.overwrite && !is_run(path_)) {
    cannot(
        "--overwrite replaces a run, and neither its config.ini nor its metadata.json is one's; "
        "name another with --run.out, or empty it yourself");
  }
  remove_leftovers(path_);
  if (empty || line.resume) return;
  for (const char* name : kFiles) fs::remove(fs::path(path_) / name, failed);
  remove_checkpoints(checkpoints());
}

nlohmann::json RunFolder::metadata() const {
  return metadata_in(path_);
}

bool RunFolder::is_complete(int64_t step) const {
  const nlohmann::json held = metadata();
  return has_model() && held.value("status", nlohmann::json()) == "COMPLETE" &&
         held.value("steps_done", nlohmann::json()) == step;
}

void RunFolder::check_metrics(MetricsFiles::Bytes keep, int64_t rows) const {
  MetricsFiles::check(path_, keep, rows);
}

void RunFolder::begin(const Options& options, MetricsFiles::Bytes keep) {
  agree(*runtime_.world(), {"beginning the run's files"}, [&] {
    if (runtime_.rank() != 0) return;
    write_file(concat(path_, '/', kConfig), to_ini(options));
    metrics_ = std::make_unique<MetricsFiles>(path_, keep);
  });
}

MetricsFiles::Bytes RunFolder::flush_metrics() const {
  return metrics_->flush();
}

bool RunFolder::has_model() const {
  return fs::exists(fs::path(path_) / kModel);
}

void RunFolder::write(const std::string& name, const std::string& bytes) {
  agree(*runtime_.world(), {"writing a file of the run"}, [&] {
    if (runtime_.rank() == 0) write_file(path_ + "/" + name, bytes);
  });
}

void RunFolder::write_metadata(const std::string& json) {
  write(kMetadata, json);
}

void RunFolder::write_model(const std::string& bytes) {
  write(kModel, bytes);
}

void RunFolder::write_best(const std::string& bytes) {
  write(kBest, bytes);
}

void RunFolder::append(const MetricsRow& row) {
  agree(*runtime_.world(), {"writing the metrics"}, [&] {
    if (runtime_.rank() == 0) metrics_->append(row);
  });
}

}  // namespace syncbn
