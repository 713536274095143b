#include "data/data_files.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <vector>

namespace syncbn {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDebianFashionMnist = "/usr/share/datasets/fashion-mnist";

// Which of a set's files a name stands for. Some sets call the test files t10k, some test; one set
// may have both, and images of the one do not go with labels of the other.
enum Role : size_t {
  kTrainImages,
  kTrainLabels,
  kT10kImages,
  kT10kLabels,
  kTestImages,
  kTestLabels
};
constexpr size_t kRoles = 6;

struct FileName {
  std::string set;  // what the name begins with: "emnist-letters"; empty: nothing
  Role role = kTrainImages;
  int rank = 0;  // of two names for one file the one of the lower rank is taken
};

// The part of a file's rank that says which of its properties weighs more.
enum Rank : int { kZipped = 1, kDotted = 2, kIntegers = 4, kInFolder = 8 };

/// Removes `end` from the end of `text` if it is there.
bool strip(std::string& text, const std::string& end) {
  if (text.size() < end.size() || text.compare(text.size() - end.size(), end.size(), end) != 0) {
    return false;
  }
  text.resize(text.size() - end.size());
  return true;
}

/// Reads [set-](train|t10k|test)-(images|labels)[-.]idx<digit>-(ubyte|int)[.gz]; nothing for other
/// names.
std::optional<FileName> parse_name(std::string name) {
  FileName found;
  if (name.empty() || name[0] == '.') return std::nullopt;
  if (strip(name, ".gz")) found.rank += kZipped;
  if (strip(name, "-int")) {
    found.rank += kIntegers;
  } else if (!strip(name, "-ubyte")) {
    return std::nullopt;
  }
  if (name.empty() || name.back() < '1' || name.back() > '9') return std::nullopt;
  name.pop_back();
  if (strip(name, ".idx")) {
    found.rank += kDotted;
  } else if (!strip(name, "-idx")) {
    return std::nullopt;
  }
  const bool images = strip(name, "-images");
  if (!images && !strip(name, "-labels")) return std::nullopt;
  size_t role = images ? 0 : 1;
  if (strip(name, "t10k")) {
    role += kT10kImages;
  } else if (strip(name, "test")) {
    role += kTestImages;
  } else if (!strip(name, "train")) {
    return std::nullopt;
  }
  found.role = static_cast<Role>(role);
  if (!name.empty() && !strip(name, "-")) return std::nullopt;  // "mytrain-images…"
  found.set = name;
  return found;
}

/// The files of one set in one folder, the best name of each.
struct Candidates {
  struct File {
    int rank;
    std::string path;
  };
  std::array<std::optional<File>, kRoles> files;

  void add(Role role, int rank, const fs::path& path) {
    auto& file = files[role];
    if (!file || rank < file->rank) file = File{rank, path.string()};
  }
  bool has(size_t images) const { return files[images] && files[images + 1]; }
  bool whole() const { return has(kTrainImages) && (has(kT10kImages) || has(kTestImages)); }
  std::array<std::string, 4> paths() const {
    const size_t test = has(kT10kImages) ? kT10kImages : kTestImages;
    return {files[kTrainImages]->path, files[kTrainLabels]->path, files[test]->path,
            files[test + 1]->path};
  }
};

struct Folder {
  fs::path path;
  std::map<std::string, Candidates> sets;  // by what their names begin with
  std::vector<std::string> names;          // of all that is there
};

/// A folder of a file's own name, as unpackers make it, may hold the file.
void look_inside(const fs::path& path, const FileName& name, Candidates& candidates) {
  std::error_code unreadable;
  for (const auto& entry : fs::directory_iterator(path, unreadable)) {
    const auto inner = parse_name(entry.path().filename());
    std::error_code ignored;
    if (!inner || inner->set != name.set || inner->role != name.role) continue;
    if (entry.is_directory(ignored) || !entry.exists(ignored)) continue;
    candidates.add(name.role, inner->rank + kInFolder, entry.path());
  }
}

Folder look_into(const fs::path& path) {
  Folder folder;
  folder.path = path;
  std::error_code failed;
  fs::directory_iterator entries(path, failed);
  if (failed) {
    throw Error(concat("cannot read the data folder '", path.string(), "': ", failed.message()),
                ExitCode::kInputMissing);
  }
  for (const auto& entry : entries) {
    std::error_code ignored;
    const std::string name = entry.path().filename();
    const bool is_folder = entry.is_directory(ignored), there = entry.exists(ignored);
    folder.names.push_back(name + (is_folder ? "/" : there ? "" : " (a broken link)"));
    const auto parsed = parse_name(name);
    if (!parsed || !there) continue;
    if (is_folder) {
      look_inside(entry.path(), *parsed, folder.sets[parsed->set]);
    } else {
      folder.sets[parsed->set].add(parsed->role, parsed->rank, entry.path());
    }
  }
  std::sort(folder.names.begin(), folder.names.end());
  return folder;
}

/// Where torchvision and EMNIST's archive put files, below the folder that they are given.
std::vector<std::string> below(const std::string& data) {
  if (data == "mnist") return {"raw", "MNIST/raw"};
  if (data == "fashion-mnist") return {"raw", "FashionMNIST/raw"};
  return {"raw", "gzip", "MNIST/raw", "FashionMNIST/raw", "KMNIST/raw", "EMNIST/raw", "QMNIST/raw"};
}

/// A whole set and where it is.
struct Found {
  const Folder* folder;
  std::string set;
  const Candidates* files;
  /// The data.dir that names it.
  std::string dir() const {
    return (set.empty() || is_hidden() ? place() : place() / set).string();
  }
  /// The same for a sentence.
  std::string advice() const {
    if (!is_hidden()) return "'" + dir() + "'";
    return concat("'", (place() / set).string(), "' (once the folder of that name has another)");
  }

 private:
  fs::path place() const {
    const fs::path path = fs::absolute(folder->path).lexically_normal();
    const bool ends_in_slash = path.filename().empty() && path.has_relative_path();
    return ends_in_slash ? path.parent_path() : path;
  }
  /// Whether a folder of the set's name is what data.dir would name.
  bool is_hidden() const {
    std::error_code ignored;
    return !set.empty() && fs::is_directory(place() / set, ignored);
  }
};

/// Whole sets of a folder; of all names that begin with `wanted`, if that is given.
std::vector<Found> whole_sets(const Folder& folder, const std::optional<std::string>& wanted) {
  std::vector<Found> found;
  for (const auto& [set, files] : folder.sets) {
    if (files.whole() && (!wanted || set == *wanted)) found.push_back({&folder, set, &files});
  }
  return found;
}

std::string list(const std::vector<std::string>& words, size_t most) {
  std::string text;
  for (size_t i = 0; i < std::min(words.size(), most); ++i) {
    text += concat(i == 0 ? "" : ", ", words[i]);
  }
  return words.size() > most ? concat(text, " and ", words.size() - most, " more") : text;
}

class Search {
 public:
  explicit Search(const Options& options) : options_(options), data_(options.data.name) {
    const auto file = options.from_file.find("data.dir");
    const char* named = std::getenv("SYNCBN_MNIST_DIR");
    if (!options.data.dir.empty()) {
      dir_ = options.data.dir;
      from_ = file == options.from_file.end() ? "data.dir" : file->second;
    } else if (data_ == "mnist" && named != nullptr && *named != '\0') {
      dir_ = named;
      from_ = "SYNCBN_MNIST_DIR";
    } else {
      const std::string own = "data/" + data_;
      const bool debian = data_ == "fashion-mnist" && !fs::exists(own);
      dir_ = debian && fs::exists(kDebianFashionMnist) ? kDebianFashionMnist : own;
      from_ = "the default of data.dir";
    }
  }

  DataFiles run() {
    std::error_code ignored;
    fs::path path = dir_;
    if (!fs::is_directory(path, ignored)) {  // perhaps a set's name in a folder
      wanted_ = path.filename().string();
      path = path.parent_path().empty() ? "." : path.parent_path();
      if (wanted_->empty() || !fs::is_directory(path, ignored)) refuse_missing();
    }
    folders_.push_back(look_into(path));
    auto found = whole_sets(folders_.front(), wanted_);
    if (found.size() > 1 && found.front().set.empty()) found.resize(1);  // MNIST's own names
    if (found.empty()) found = look_below(path);
    if (found.empty()) refuse_incomplete();
    if (found.size() > 1) refuse_ambiguous(found);
    return {found.front().files->paths(), found.front().dir()};
  }

 private:
  std::vector<Found> look_below(const fs::path& path) {
    std::error_code ignored;
    for (const std::string& name : below(data_)) {
      if (fs::is_directory(path / name, ignored)) folders_.push_back(look_into(path / name));
    }
    std::vector<Found> found;
    for (size_t i = 1; i < folders_.size(); ++i) {
      const auto more = whole_sets(folders_[i], wanted_);
      found.insert(found.end(), more.begin(), more.end());
    }
    return found;
  }

  std::string begin() const { return concat("Data set ", data_, ": '", dir_, "' (", from_, ") "); }
  std::string advice() const {
    const bool mnist = data_ == "mnist";
    return concat(mnist ? "Fetch the files with launch/fetch_mnist.sh, or name "
                  : data_ == "fashion-mnist" ? "Install Debian's package dataset-fashion-mnist, or "
                                               "name "
                                             : "Name ",
                  "their folder with --data.dir", mnist ? " or SYNCBN_MNIST_DIR." : ".");
  }
  static std::string expected() {
    const std::vector<std::string> names(kDataFiles.begin(), kDataFiles.end());
    return concat("Expected ", list(names, names.size()), ", each plain or .gz. ");
  }

  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(begin() + what + kNames + advice(), ExitCode::kInputMissing);
  }
  [[noreturn]] void refuse_missing() const { refuse("is not there. " + expected()); }
  [[noreturn]] void refuse_ambiguous(const std::vector<Found>& found) const {
    std::vector<std::string> dirs;
    for (const Found& set : found) dirs.push_back(set.advice());
    throw Error(concat(begin(), "holds several data sets; name one of them with --data.dir: ",
                       list(dirs, dirs.size()), "."),
                ExitCode::kInputMissing);
  }
  /// Speaks of the set of which the most files are there.
  [[noreturn]] void refuse_incomplete() const {
    const Folder* folder = &folders_.front();
    std::string set = wanted_.value_or("");
    Candidates files;
    const auto count = [](const Candidates& c) {
      return std::count_if(c.files.begin(), c.files.end(), [](const auto& f) { return f; });
    };
    for (const Folder& each : folders_) {
      for (const auto& [name, candidates] : each.sets) {
        if ((wanted_ && name != *wanted_) || count(candidates) <= count(files)) continue;
        folder = &each;
        set = name;
        files = candidates;
      }
    }
    if (wanted_ && count(files) == 0) refuse_missing_set();
    const bool test = files.files[kTestImages] || files.files[kTestLabels] ||
                      (!set.empty() && !files.files[kT10kImages] && !files.files[kT10kLabels]);
    refuse(concat(
        "lacks ", lacking(files, set, test),
        folder == &folders_.front() ? "" : concat(" in '", folder->path.string(), "'"),
        folder->names.empty() ? "; it is empty" : "; it holds " + list(folder->names, kMostNames),
        ". "));
  }
  [[noreturn]] void refuse_missing_set() const {
    std::vector<std::string> sets;
    for (const Folder& folder : folders_) {
      for (const Found& found : whole_sets(folder, std::nullopt)) sets.push_back(found.advice());
    }
    std::error_code ignored;
    const bool is_file = fs::exists(dir_, ignored);
    refuse(concat(is_file ? "is a file, expected a folder; '" : "is not there; '",
                  folders_.front().path.string(), "' holds ",
                  !sets.empty() ? concat("the data sets ", list(sets, kMostNames))
                  : folders_.front().names.empty() ? "nothing"
                                                   : list(folders_.front().names, kMostNames),
                  ". ", sets.empty() ? expected() : ""));
  }
  static std::string lacking(const Candidates& candidates, const std::string& set, bool test) {
    std::vector<std::string> names;
    for (size_t f = 0; f < kDataFiles.size(); ++f) {
      const size_t role = f >= 2 && test ? f + 2 : f;
      if (candidates.files[role]) continue;
      std::string name = kDataFiles[f];
      if (f >= 2 && test) name.replace(0, 4, "test");
      names.push_back(concat("'", set, set.empty() ? "" : "-", name, "'"));
    }
    return list(names, names.size());
  }

  static constexpr const char* kNames = "docs/data.md lists the names that are read. ";
  static constexpr size_t kMostNames = 8;
  const Options& options_;
  std::string data_, dir_, from_;
  std::optional<std::string> wanted_;  // what the names are to begin with
  std::vector<Folder> folders_;        // the folder first, then those below it
};

}  // namespace

DataFiles find_data_files(const Options& options) {
  return Search(options).run();
}

}  // namespace syncbn
