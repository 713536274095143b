#include "train/checkpoint.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "base/digest.hpp"
#include "base/file.hpp"
#include "base/options_text.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;

constexpr const char* kReserved = "checkpoint.";
constexpr const char* kFormat = "checkpoint.format";
constexpr const char* kStep = "checkpoint.step";
constexpr const char* kDigest = "checkpoint.sha256";
constexpr size_t kDigits = 64;
constexpr uint64_t kLargestFile = uint64_t{16} << 30;  // what is read whole must fit in memory

constexpr const char* kPrefix = "step-";
constexpr const char* kSuffix = ".safetensors";

[[noreturn]] void damaged(const std::string& path, const std::string& what) {
  throw Error(concat("'", path, "' is damaged: ", what, "."), ExitCode::kInputDamaged);
}

/// Where the digest's digits stand, or npos. In JSON, quotes inside a text are escaped, so only the
/// key itself can match.
size_t digest_place(std::string_view bytes) {
  const std::string key = concat('"', kDigest, "\":\"");
  const size_t place = bytes.find(key);
  const bool whole = place != bytes.npos && bytes.size() - place >= key.size() + kDigits;
  return whole ? place + key.size() : bytes.npos;
}

std::string digest_at(std::string_view bytes, size_t place) {
  const std::string zeros(kDigits, '0');
  return sha256({bytes.substr(0, place), zeros, bytes.substr(place + kDigits)});
}

void verify_digest(std::string_view bytes, const std::string& path) {
  const size_t place = digest_place(bytes);
  if (place != bytes.npos && bytes.substr(place, kDigits) == digest_at(bytes, place)) return;
  parse_safetensors(bytes, path);  // says what is damaged if it can be seen
  damaged(path, place == bytes.npos ? concat("it has no ", kDigest, " and is thus no checkpoint")
                                    : "its SHA-256 is another than the one it holds, so bytes of a "
                                      "tensor or a text have changed");
}

/// Takes a whole number from 0 out of the file's metadata.
int64_t take_number(std::map<std::string, std::string>& metadata, const char* key,
                    const std::string& path) {
  const std::string text = metadata[key];
  metadata.erase(key);
  int64_t value = 0;
  if (read_value(text, value) != nullptr || value < 0) {
    damaged(path, concat(key, " is ", quoted(text), ", expected a whole number from 0"));
  }
  return value;
}

std::string kind_of(const at::Tensor& tensor) {
  return concat(tensor.scalar_type(), " ", tensor.sizes());
}

/// The step in a checkpoint's file name; nothing for any other name.
std::optional<int64_t> step_in(const std::string& name) {
  const std::string prefix = kPrefix, suffix = kSuffix;
  if (name.size() <= prefix.size() + suffix.size() || name.rfind(prefix, 0) != 0 ||
      name.compare(name.size() - suffix.size(), suffix.size(), suffix) != 0) {
    return std::nullopt;
  }
  int64_t step = 0;
  const char *const begin = name.data() + prefix.size(), *const end = name.data() + name.size() -
                                                                      suffix.size();
  const auto [last, error] = std::from_chars(begin, end, step);
  return error == std::errc() && last == end && step >= 0 ? std::optional(step) : std::nullopt;
}

/// The names in a folder; none if it is not there.
std::vector<std::string> names_of(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename());
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw Error(concat("cannot read the folder '", folder, "': ", error.message()),
                ExitCode::kInputMissing);
  }
  return names;
}

Checkpoint load(const std::string& path) {
  const FileBytes file =
      read_regular_file(path, "checkpoint", kLargestFile, ExitCode::kInputDamaged);
  return from_bytes({reinterpret_cast<const char*>(file.data.get()), file.size}, path);
}

}  // namespace

std::string list_of(const std::vector<std::string>& differences) {
  constexpr size_t kMostShown = 30;
  std::string list;
  for (size_t i = 0; i < std::min(differences.size(), kMostShown); ++i) {
    list += concat(i == 0 ? "" : "; ", differences[i]);
  }
  if (differences.size() > kMostShown) {
    list += concat("; and ", differences.size() - kMostShown, " more");
  }
  return list;
}

std::string to_bytes(const Checkpoint& checkpoint) {
  SYNCBN_CHECK(checkpoint.step >= 0, "step ", checkpoint.step);
  std::map<std::string, std::string> metadata = {{"format", "pt"},
                                                 {kFormat, std::to_string(kCheckpointFormat)},
                                                 {kStep, std::to_string(checkpoint.step)},
                                                 {kDigest, std::string(kDigits, '0')}};
  for (const auto& [key, text] : checkpoint.texts) {
    const bool is_new = metadata.emplace(key, text).second;
    SYNCBN_CHECK(is_new && key.rfind(kReserved, 0) != 0, "text ", quoted(key), " is reserved");
  }
  std::string bytes = to_safetensors(checkpoint.tensors, metadata);
  SYNCBN_CHECK(bytes.size() <= kLargestFile, "a checkpoint of ", bytes.size(), " bytes");
  const size_t place = digest_place(bytes);
  bytes.replace(place, kDigits, digest_at(bytes, place));
  return bytes;
}

Checkpoint from_bytes(std::string_view bytes, const std::string& path) {
  verify_digest(bytes, path);
  TensorFile file = parse_safetensors(bytes, path);
  const int64_t format = take_number(file.metadata, kFormat, path);
  if (format != kCheckpointFormat) {
    throw Error(
        concat("'", path, "' is a checkpoint of format ", format, ", this program reads format ",
               kCheckpointFormat, ": use the version of syncbn that wrote it."),
        ExitCode::kInputDamaged);
  }
  const int64_t step = take_number(file.metadata, kStep, path);
  file.metadata.erase(kDigest);
  file.metadata.erase("format");
  return {step, std::move(file.tensors), std::move(file.metadata)};
}

void check_same_run(const Checkpoint& found, const Checkpoint& own, const std::string& path,
                    const Reasons& reasons) {
  std::vector<std::string> differences;
  const auto differs = [&](const auto&... what) { differences.push_back(concat(what...)); };
  for (const auto& [key, expected] : own.texts) {
    const auto text = found.texts.find(key);
    if (text != found.texts.end() && text->second == expected) continue;
    const std::string value = text == found.texts.end() ? "missing" : quoted(text->second);
    const auto reason = reasons.of.find(key);
    differs(key, " is ", value, ", expected ", quoted(expected),
            reason == reasons.of.end() ? "" : " (" + reason->second + ")");
  }
  const size_t texts = differences.size();
  std::map<std::string, at::Tensor> tensors(found.tensors.begin(), found.tensors.end());
  for (const auto& [name, expected] : own.tensors) {
    const auto tensor = tensors.find(name);
    if (tensor == tensors.end()) {
      differs("tensor ", name, " is missing, expected ", kind_of(expected));
      continue;
    }
    if (kind_of(tensor->second) != kind_of(expected)) {
      differs("tensor ", name, " is ", kind_of(tensor->second), ", expected ", kind_of(expected));
    }
    tensors.erase(tensor);
  }
  for (const auto& [name, value] : tensors) differs("tensor ", quoted(name), " is not expected");
  if (differences.empty()) return;
  const bool advised = texts == differences.size() && !reasons.advice.empty();
  throw Error(concat("'", path, "' is of another run: ", list_of(differences), ".",
                     advised ? " " + reasons.advice : ""),
              ExitCode::kInputDamaged);
}

void remove_checkpoints(const std::string& path) {
  std::error_code ignored;  // what cannot be removed is told when the folder is used
  for (const std::string& name : names_of(path)) {
    if (step_in(name.substr(0, name.find(".tmp-")))) fs::remove(path + "/" + name, ignored);
  }
  fs::remove(path, ignored);  // not if it holds anything
}

CheckpointFolder::CheckpointFolder(std::string path, int64_t keep)
    : path_(std::move(path)), keep_(keep) {
  SYNCBN_CHECK(keep_ >= 1, "cannot keep ", keep_, " checkpoints");
}

std::string CheckpointFolder::file_of(int64_t step) const {
  char name[32];  // the names' alphabetical order is that of the steps
  std::snprintf(name, sizeof name, "%s%012lld", kPrefix, static_cast<long long>(step));
  return concat(path_, '/', name, kSuffix);
}

std::vector<int64_t> CheckpointFolder::steps() const {
  std::vector<int64_t> steps;
  for (const std::string& name : names_of(path_)) {
    const auto step = step_in(name);
    if (step && file_of(*step) == concat(path_, '/', name)) steps.push_back(*step);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

void CheckpointFolder::remove_leftovers() const {
  std::error_code ignored;  // what cannot be removed does no harm
  for (const std::string& name : names_of(path_)) {
    const size_t end = name.find(".tmp-");
    if (end != name.npos && step_in(name.substr(0, end))) fs::remove(path_ + "/" + name, ignored);
  }
}

std::string CheckpointFolder::save(const Checkpoint& checkpoint) const {
  make_folder(path_);
  remove_leftovers();
  std::string path = file_of(checkpoint.step);
  write_file(path, to_bytes(checkpoint));
  int64_t kept = 0;
  for (const int64_t step : steps()) {
    std::error_code ignored;
    if (step <= checkpoint.step && ++kept > keep_) fs::remove(file_of(step), ignored);
  }
  return path;
}

CheckpointFolder::Found CheckpointFolder::newest() const {
  Found found;
  for (const int64_t step : steps()) {
    found.path = file_of(step);
    try {
      found.checkpoint = load(found.path);
      if (found.checkpoint->step == step) return found;
      damaged(found.path, concat("it is of step ", found.checkpoint->step, ", against its name"));
    } catch (const Error& error) {
      found.warnings.push_back(concat("Checkpoint passed over: ", error.what()));
    }
  }
  if (found.warnings.empty()) return found;
  std::string reasons;
  for (const std::string& warning : found.warnings) reasons += " " + warning;
  throw Error(concat("No checkpoint in '", path_, "' can be used.", reasons),
              ExitCode::kInputDamaged);
}

}  // namespace syncbn
