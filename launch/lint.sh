#!/usr/bin/env bash
# Checks the form of the sources and scripts; changes nothing.
#
#   launch/lint.sh            clang-format on C++, shellcheck on the scripts
#   launch/lint.sh --tidy     clang-tidy on src/ as well (minutes; configures build/tidy for it)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
help_if_asked "$@"
[[ $# == 0 || $* == --tidy ]] || die 64 "unknown argument '${*: -1}'; usage: launch/lint.sh [--tidy]"

cd "$root"
say "clang-format"
find src tests \( -name '*.hpp' -o -name '*.cpp' \) -print0 |
  xargs -0 -r clang-format --dry-run -Werror
say "shellcheck"
shellcheck -x -P launch launch/*.sh launch/slurm.sbatch tests/*.sh tests/support/*.sh .ci/run
if [[ ${1:-} == --tidy ]]; then
  say "clang-tidy"
  # Its own compile commands: clang cannot read the precompiled header that GCC makes.
  logged configure-tidy "CMake could not configure syncbn." cmake -S . -B "$build/tidy" -G Ninja \
    -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON -DSYNCBN_TESTS=OFF "-DSYNCBN_VENV=$venv"
  find src -name '*.cpp' ! -name '*_stub.cpp' -print0 |
    xargs -0 -r -n 1 -P "$(build_jobs)" clang-tidy --quiet -p "$build/tidy"
fi
