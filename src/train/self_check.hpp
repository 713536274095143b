// --self-check: does the promise of canonical sums hold on this machine, and what does it cost
// here?
#pragma once

#include "base/options.hpp"
#include "comm/runtime.hpp"

namespace syncbn {

/// Collective over the runtime's world; prints on rank 0, writes no file, needs no data. Trains the
/// model of `options` for some steps on synthetic samples, canonically: on all ranks together, on
/// halves of them, and on each rank alone. All must have the same bits. Then takes steps by turns
/// in canonical and in fast mode, on all ranks, and prints the ratio of their times. Throws
/// UsageError on all ranks: 70 if bits differ, naming the groupings.
void self_check(Runtime& runtime, const Options& options);

}  // namespace syncbn
