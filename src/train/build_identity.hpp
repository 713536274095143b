// The source that this program was built from, as git knew it when it was built.
#pragma once

namespace syncbn {

/// The commit in 40 hexadecimal digits; "unknown" outside a git checkout.
const char* build_commit();

/// Whether tracked files differed from that commit: "yes", "no" or "unknown".
const char* build_dirty();

}  // namespace syncbn
