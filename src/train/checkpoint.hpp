// Checkpoints: all that a run needs to go on, in one file, and the folder that holds the last few.
//
// A checkpoint is a safetensors file (train/safetensors.hpp), so `safetensors.torch.load_file`
// opens it. Its metadata hold the checkpoint's texts and four of its own: "format" (pt, for
// Python), "checkpoint.format", "checkpoint.step", and "checkpoint.sha256", the SHA-256 of the
// whole file with these 64 digits as zeros: one changed, missing or added byte anywhere is found.
// Every later format keeps those four, so that an older program can tell a newer file from a
// damaged one. Nothing in a file is code, and nothing depends on the number of ranks. The digest
// proves that the file is as it was written, not by whom.
//
// Nothing here is collective: one rank (0) reads and writes on behalf of all.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "train/safetensors.hpp"

namespace syncbn {

constexpr int64_t kCheckpointFormat = 1;

struct Checkpoint {
  int64_t step = 0;      ///< steps done, from 0
  NamedTensors tensors;  ///< weights under PyTorch's names, "optimizer.…", …; see `to_safetensors`
  std::map<std::string, std::string> texts;  ///< what is no tensor; not "format", "checkpoint.…"
};

/// The file's bytes. Throws Error(kInvariant) for a text with a reserved name.
std::string to_bytes(const Checkpoint& checkpoint);

/// Verifies the digest, then all else. Throws Error(kInputDamaged) that names `path` and the
/// damaged part, or for a file of a newer format both formats.
Checkpoint from_bytes(std::string_view bytes, const std::string& path);

/// The first of the differences, for a message, and how many more there are.
std::string list_of(const std::vector<std::string>& differences);

/// Why two runs that differ in a text are not one, for whoever reads of it.
struct Reasons {
  std::map<std::string, std::string> of;  ///< by the text's key; not every one needs a reason
  std::string advice;                     ///< a sentence for the end where only texts differ
};

/// Throws Error(kInputDamaged), naming `path` and every difference, unless `found` is of the run
/// that `own` describes: it has each text of `own` with the same value (it may have others), and
/// tensors of exactly the names, dtypes and shapes of `own`, in any order. One text per field (not
/// a whole configuration) makes the sentence readable.
void check_same_run(const Checkpoint& found, const Checkpoint& own, const std::string& path,
                    const Reasons& reasons = {});

/// Removes the checkpoints of the folder `path`, and the folder if nothing else is in it.
void remove_checkpoints(const std::string& path);

/// The files step-000000001234.safetensors of one run.
class CheckpointFolder {
 public:
  /// `path` need not be there yet, its parent must; `keep` ≥ 1.
  CheckpointFolder(std::string path, int64_t keep);

  /// Writes the checkpoint as `write_file` does, then removes all but the last `keep` up to its
  /// step; returns its path. Later ones (those that `newest` had to pass over) stay until a save
  /// reaches their step. First removes what killed runs left half-written. Throws
  /// Error(kWriteFailed), for a full disk among others: then nothing of it is left, and the earlier
  /// checkpoints are as before.
  std::string save(const Checkpoint& checkpoint) const;

  struct Found {
    std::optional<Checkpoint> checkpoint;  ///< none: there are no checkpoints
    std::string path;
    /// One sentence for each later file that is damaged, unreadable or of a newer format, for the
    /// log: training goes back further than the user may think.
    std::vector<std::string> warnings;
  };
  /// The valid checkpoint of the highest step. Throws Error: kInputDamaged with all reasons if
  /// there are files but none is valid, kInputMissing if the folder cannot be read.
  Found newest() const;

 private:
  std::string file_of(int64_t step) const;
  std::vector<int64_t> steps() const;  // of the files that are there, the highest first
  void remove_leftovers() const;

  std::string path_;
  int64_t keep_;
};

}  // namespace syncbn
