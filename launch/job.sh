#!/usr/bin/env bash
# A job that is looked after: run_local.sh and slurm.sbatch source this file for its functions.

source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# program_of CONFIG: the program that a configuration is for. A study's has an [experiment …].
program_of() {
  if grep -q '^[[:space:]]*\[experiment ' "$1"; then
    printf '%s\n' "$build/syncbn-study"
  else
    printf '%s\n' "$build/syncbn-train"
  fi
}

# is_given NAME ARGUMENT…: the arguments hold --NAME or --NAME=….
is_given() {
  local name=$1 word
  shift
  for word in "$@"; do
    [[ $word != "--$name" && $word != "--$name="* ]] || return 0
  done
  return 1
}

# names_folder CONFIG ARGUMENT…: a training's folder is known from its command line or its file.
names_folder() {
  is_given run.out "${@:2}" || [[ -n $(folder_of "$@") ]]
}

# folder_of CONFIG ARGUMENT…: that folder; nothing if nobody has named one.
folder_of() {
  local config=$1 word before='' value=''
  shift
  for word in "$@"; do
    [[ $before != --run.out ]] || value=$word
    [[ $word != --run.out=* ]] || value=${word#*=}
    before=$word
  done
  [[ -n $value ]] || value=$(awk '/^[[:space:]]*\[/ { run = /\[run\]/ }
    run && sub(/^[[:space:]]*out[[:space:]]*=[[:space:]]*/, "") { sub(/[[:space:]]+(#.*)?$/, ""); print; exit }' "$config")
  printf '%s\n' "$value"
}

# new_folder CONFIG SUFFIX: where a training of this configuration goes if nobody has named a folder.
new_folder() {
  local name=${1##*/}
  printf 'runs/%s-%s\n' "${name%.ini}" "$2"
}

# resumed ARGUMENT…: sets `arguments` to what goes on with a training that was begun with these.
resumed() {
  local word
  arguments=()
  for word in "$@"; do
    [[ $word == --overwrite ]] || arguments+=("$word")
  done
  is_given resume "$@" || arguments+=(--resume)
}

# began FOLDER: tells one beginning of a run in this folder from another; nothing if it holds none.
began() { stat -c '%i %y' "$1/config.ini" 2>/dev/null || true; }

job='' job_status=0 job_interrupted=false stop_asked=false stop_signal='' early_signal=''

# job_catches SIGNAL: the job's launcher has a handler for this signal by now.
job_catches() {
  local mask
  mask=$(awk '/^SigCgt/ { print $2 }' "/proc/$job/status" 2>/dev/null) || return 1
  ((0x${mask:-0} & (1 << ($(kill -l "$1") - 1))))
}

# pass_on SIGNAL: sends a signal on to the launcher, which sends it to all ranks. In its first moments
# the launcher would die of it, so this waits for its handler, 5 s at most.
pass_on() {
  # shellcheck disable=SC2034  # slurm.sbatch asks which signal it was
  stop_asked=true job_interrupted=true stop_signal=$1
  [[ -n $job ]] || { early_signal=$1 && return; }
  local tries
  for ((tries = 0; tries < 50; ++tries)); do
    if job_catches "$1" || ! kill -0 "$job" 2>/dev/null; then break; fi
    sleep 0.1 || true  # which a second Ctrl-C ends
  done
  kill -s "$1" "$job" 2>/dev/null || true
}

# supervise COMMAND…: runs the job to its end and sets job_status. The job has a process group of its
# own, so that Ctrl-C reaches it once, through pass_on, and ends with this shell, should that be killed.
supervise() {
  local signal before=127 tie=()
  ! setpriv --pdeathsig TERM true 2>/dev/null || tie=(setpriv --pdeathsig TERM)
  for signal in USR1 TERM INT HUP; do
    # shellcheck disable=SC2064  # the name of this turn
    trap "pass_on $signal" "$signal"
  done
  set -m
  ${tie[@]+"${tie[@]}"} "$@" </dev/null &
  job=$!
  set +m
  [[ -z $early_signal ]] || pass_on "$early_signal"
  while true; do  # a trapped signal ends `wait` before the job ends
    job_interrupted=false job_status=0
    wait "$job" 2>/dev/null || job_status=$?
    $job_interrupted || break
    before=$job_status
  done
  ((job_status != 127)) || job_status=$before  # the last `wait` but one had the job's own code
  job=''
}

# explain CODE: what a code means that is mpirun's and not the program's; nothing for the program's.
explain() {
  case $1 in
    0 | 6[4-9] | 7[0-8] | 124) ;;
    110) echo "the time limit of -t is over" ;;
    134) echo "a rank aborted (signal 6)" ;;
    137) echo "a process of the job was killed (signal 9), by hand or because memory ran out" ;;
    138) echo "a rank was ended by SIGUSR1 before it could take it: nothing was done yet" ;;
    139) echo "a rank crashed (signal 11)" ;;
    143) echo "the job was ended by SIGTERM" ;;
    *) $stop_asked || echo "the launcher could not run the job (mpirun says why without --quiet)" ;;
  esac
}

# run_job RESTARTS LAUNCHER… -- PROGRAM ARGUMENT…: runs the job, and again, RESTARTS times at most, if a
# process was killed (137), crashed (139), made no progress (124), or MPI, CUDA or NCCL failed (71).
# A training is resumed, unless it had not begun yet in a folder that holds an older run, which must not be
# taken for it; a study goes on by itself. No other code would change by a second try, and
# after SIGUSR1, SIGTERM, SIGINT or SIGHUP nothing is started again. Ends with job_status set.
# Two functions are called if there are such: `before_start` before each start, which may set `start`,
# words that come before the launcher's, and `before_restart` once a job has ended that is to start again.
run_job() {
  local most=$1 launcher=() program restarts=0 arguments=() start=()
  shift
  while [[ $1 != -- ]]; do launcher+=("$1") && shift; done
  program=$2
  shift 2
  arguments=("$@")
  local config=/dev/null folder='' older=''
  [[ ${1:-} != --config ]] || config=$2
  folder=$(folder_of "$config" "$@")
  [[ -z $folder ]] || older=$(began "$folder")
  while true; do
    ! declare -F before_start >/dev/null || before_start
    supervise ${start[@]+"${start[@]}"} "${launcher[@]}" "$program" "${arguments[@]}"
    local why
    why=$(explain "$job_status")
    case $job_status in 71 | 124 | 137 | 139) ;; *) break ;; esac
    if $stop_asked || ((restarts >= most)); then break; fi
    restarts=$((restarts + 1))
    say "The job ended with $job_status${why:+: $why}. Restart $restarts of $most"
    ! declare -F before_restart >/dev/null || before_restart
    if [[ $program == *-study ]] || [[ -n $older && $(began "$folder") == "$older" ]]; then continue; fi
    resumed "${arguments[@]}"
  done
  [[ -z ${why:-} ]] || say "The job ended with $job_status: $why."
}

# check_restarts NUMBER NAME: refuses what is no number of restarts.
check_restarts() {
  [[ $1 =~ ^(0|[1-9][0-9]{0,3})$ ]] ||
    die 64 "$2 must be a number of restarts from 0 to 9999; found '$1'."
}

# Open MPI's shared-memory files and session folder lie in one folder of this job, so that what a killed
# mpirun leaves can be told from other jobs'. Whoever runs the job holds a lock on its folder: a folder
# without a holder is left over, from a script that was killed itself, and is removed by the next one.
job_folder=''
make_job_folder() {  # PARENT
  local guard old
  [[ -d $1 && -w $1 ]] || return 0
  exec {guard}<"$1"  # nobody looks for left folders between the two steps of making one
  flock -w 5 "$guard" || true
  for old in "$1/syncbn-$UID-"??????; do
    [[ -d $old && -O $old ]] || continue
    exec {job_lock}<"$old"
    ! flock -n "$job_lock" || rm -rf -- "$old"
    exec {job_lock}<&-
  done
  if job_folder=$(mktemp -d "$1/syncbn-$UID-XXXXXX" 2>/dev/null); then
    exec {job_lock}<"$job_folder"
    flock -n "$job_lock" || true
  fi
  exec {guard}<&-
}

# The processes of this job that are left, by the folder in their environment.
job_processes() {
  grep -lzxF "SYNCBN_JOB_FOLDER=$job_folder" /proc/[0-9]*/environ 2>/dev/null |
    cut -d / -f 3 || true
}

# Waits until no process of the job is left. Ranks whose mpirun was killed notice that within a second
# or two, but a stopped one never does: what is there after 10 s is killed.
end_processes() {
  local tries left
  for ((tries = 0; tries < 150; ++tries)); do
    left=$(job_processes)
    [[ -n $left ]] || return 0
    # shellcheck disable=SC2086  # one word for each process
    ((tries < 100)) || kill -s KILL $left 2>/dev/null || true
    sleep 0.1 || true
  done
}

remove_job_folder() {
  [[ -n $job_folder ]] || return 0
  end_processes
  rm -rf -- "$job_folder"
  job_folder=''
}
