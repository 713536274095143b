// Ranges of rows, and the one rule that cuts rows into parts: a batch into shards, shards among
// ranks.
#pragma once

#include <cstdint>

namespace syncbn {

/// Rows [begin, end).
struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

/// The rows of part p, when b rows are cut into P parts: [⌊p·b/P⌋, ⌊(p+1)·b/P⌋). Parts differ by at
/// most one row and may be empty.
inline Range share_of(int64_t rows, int64_t part, int64_t parts) {
  return {rows * part / parts, rows * (part + 1) / parts};
}

}  // namespace syncbn
