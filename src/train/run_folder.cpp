#include "train/run_folder.hpp"

#include <ctime>
#include <filesystem>

#include "train/checkpoint.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLock = ".lock";
constexpr const char* kModel = "model.safetensors";
constexpr const char* kFiles[] = {"config.ini", "metadata.json", "metrics.csv", "metrics.jsonl",
                                  kModel};

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

bool holds_files(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename() != kLock) return true;
  }
  return false;
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
  if (line.resume || !holds_files(path_)) return;
  if (!line.overwrite) {
    cannot(
        "it is not empty; name another with --run.out, go on with the run with --resume, or "
        "replace it with --overwrite");
  }
  for (const char* name : kFiles) fs::remove(fs::path(path_) / name, failed);
  remove_checkpoints(checkpoints());
}

void RunFolder::begin(const Options& options, MetricsFiles::Bytes keep) {
  agree(*runtime_.world(), {"beginning the run's files"}, [&] {
    if (runtime_.rank() != 0) return;
    write_file(path_ + "/config.ini", to_ini(options));
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
  write("metadata.json", json);
}

void RunFolder::write_model(const std::string& bytes) {
  write(kModel, bytes);
}

void RunFolder::append(const MetricsRow& row) {
  agree(*runtime_.world(), {"writing the metrics"}, [&] {
    if (runtime_.rank() == 0) metrics_->append(row);
  });
}

}  // namespace syncbn
