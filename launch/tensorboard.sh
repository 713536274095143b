#!/usr/bin/env bash
# Shows the curves of a study, or of trainings, in TensorBoard on this machine.
#
#   launch/tensorboard.sh FOLDER [--port N]       for instance runs/study-notebook_claims_smoke
#   launch/tensorboard.sh FOLDER --convert-only
#
#   FOLDER           a study (one run per trial), a training, or a folder of trainings
#   --port N         the port on localhost (default: 6006)
#   --convert-only   write the event files to FOLDER/tensorboard, print that path and start nothing
#
# Event files are written anew each time: start this again to see what was measured since.
# Needs .venv, which launch/setup.sh makes (or the environment that SYNCBN_VENV names).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage="usage: launch/tensorboard.sh FOLDER [--port N | --convert-only]"
help_if_asked "$@"
folder='' port=6006 serve=true
while (($#)); do
  case $1 in
    --convert-only) serve=false ;;
    --port)
      port=${2:-}
      [[ $port =~ ^[1-9][0-9]{0,4}$ && $port -le 65535 ]] ||
        die 64 "--port must be a number from 1 to 65535; found '$port'; $usage"
      shift
      ;;
    -*) die 64 "unknown option '$1'; $usage" ;;
    *)
      [[ -z $folder ]] || die 64 "one folder at a time; found '$folder' and '$1'; $usage"
      folder=$1
      ;;
  esac
  shift
done
[[ -n $folder ]] || die 64 "no folder named; $usage"
[[ -x $venv/bin/python ]] || die 69 "there is no Python in $venv: run launch/setup.sh."

events=$(PYTHONPATH=$root/src "$venv/bin/python" -m report.tensorboard "$folder")
if ! $serve; then
  printf '%s\n' "$events"
  exit
fi
say "TensorBoard on http://localhost:$port (Ctrl-C ends it)"
exec "$venv/bin/tensorboard" --logdir "$events" --host localhost --port "$port"
