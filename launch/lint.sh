#!/usr/bin/env bash
# Checks the form of the sources and scripts; changes nothing.
#
#   launch/lint.sh            clang-format on C++, shellcheck on the scripts
#   launch/lint.sh --tidy     clang-tidy on src/ as well (minutes; needs a configured build folder)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

cd "$root"
say "clang-format"
find src tests \( -name '*.hpp' -o -name '*.cpp' \) -print0 |
  xargs -0 -r clang-format --dry-run -Werror
say "shellcheck"
shellcheck -x -P launch launch/*.sh launch/slurm.sbatch tests/support/*.sh .ci/run
if [[ ${1:-} == --tidy ]]; then
  say "clang-tidy"
  find src -name '*.cpp' -print0 | xargs -0 -r -n 1 -P "$(build_jobs)" clang-tidy --quiet -p "$build"
fi
