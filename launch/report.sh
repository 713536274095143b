#!/usr/bin/env bash
# Turns the results of a study into one page, FOLDER/report/index.html, and prints its path.
#
#   launch/report.sh FOLDER [FOLDER …]      for instance runs/study-notebook_claims_smoke
#
# The page opens from disk without a network; figures/ beside it holds the data of each figure as CSV.
# A study that is still running, or was stopped, gives a page of the trials that there are. More
# folders are further studies for the same page, which goes below the first.
# Needs .venv, which launch/setup.sh makes (or the environment that SYNCBN_VENV names).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage="usage: launch/report.sh FOLDER [FOLDER …]"
help_if_asked "$@"
[[ ${1:-} != -- ]] || shift
for word in "$@"; do
  [[ $word != -* ]] || die 64 "unknown option '$word'; $usage"
done
(($#)) || die 64 "no study's folder named; $usage"
[[ -x $venv/bin/python ]] || die 69 "there is no Python in $venv: run launch/setup.sh."
PYTHONPATH=$root/src exec "$venv/bin/python" -m report "$@"
