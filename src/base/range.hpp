// Ranges of rows, and the one rule that cuts a global batch into rank shares.
#pragma once

#include <cstdint>

namespace syncbn {

/// Rows [begin, end).
struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

/// Rank r's rows of a global batch of b samples: [⌊r·b/R⌋, ⌊(r+1)·b/R⌋). Shares differ by at most
/// one row and may be empty.
inline Range share_of(int64_t batch, int rank, int ranks) {
  return {batch * rank / ranks, batch * (rank + 1) / ranks};
}

}  // namespace syncbn
