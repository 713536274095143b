#!/usr/bin/env bash
# Injects the faults of the reliability table, one after the other, and prints what each row promises and what was found.
#
#   tests/faults.sh [ROW …]      for instance P05 P41; about 20 minutes in all
#
# The build (launch/setup.sh) must be there. Rows of GPUs are listed and not run. `ctest -R faults` is the same.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch/setup.sh"

help_if_asked "$@"
[[ -x $build/syncbn-train ]] || die 66 "there is no build in $build: run launch/setup.sh."
cd "$root"
SYNCBN_BUILD_DIR=$build PYTHONPATH=$root/tests exec "$venv/bin/python" -m endurance.faults "$@"
