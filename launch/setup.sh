#!/usr/bin/env bash
# Makes this machine ready for syncbn: Debian packages, .venv from requirements.txt, configure, build.
#
#   launch/setup.sh [TARGET…]      build everything, or only these targets
#
# What is already there is checked and left alone, so a second run takes a second or two. On two cores
# the programs alone take about 4 minutes from nothing, everything with its tests 8.
# The other scripts source this file for its functions. Settings, all optional (a folder may be
# relative to where the script is called):
#   SYNCBN_BUILD_DIR   build folder (default: build)
#   SYNCBN_VENV        a Python environment of your own, used as it is (default: .venv, made here)
#   SYNCBN_PYTHON      the Python 3.11 to make .venv with (default: Debian's)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${SYNCBN_BUILD_DIR:-$root/build}
venv=${SYNCBN_VENV:-$root/.venv}
[[ $build == /* ]] || build=$PWD/$build  # scripts change their folder
[[ $venv == /* ]] || venv=$PWD/$venv
packages=(g++ cmake ninja-build git python3 python3-venv openmpi-bin libopenmpi-dev
  libboost-program-options-dev libgtest-dev libspdlog-dev nlohmann-json3-dev zlib1g-dev libssl-dev
  curl ca-certificates iproute2)

say() { printf '==> %s\n' "$*" >&2; }

# die CODE MESSAGE…: one sentence and an exit code of sysexits.h (64 usage, 66 no input, 69 machine).
die() {
  local code=$1
  shift
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit "$code"
}

# Prints the head comment of the script that runs.
show_help() { sed -n '2,${/^#SBATCH/q;/^#/!q;s/^# \{0,1\}//;p}' "$0"; }

# help_if_asked ARGUMENT…: -h or --help, wherever it stands, is answered with the head comment alone.
help_if_asked() {
  local word
  for word in "$@"; do
    if [[ $word == -h || $word == --help ]]; then show_help && exit; fi
  done
}

# OMP_NUM_THREADS is nproc's business too, and would hide cores.
cores() { env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc; }

# GPUs that a program would see here: of the list in CUDA_VISIBLE_DEVICES, which ends for CUDA at the
# first entry that is none, or all.
visible_gpus() {
  local all entry seen=0
  all=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    for entry in ${CUDA_VISIBLE_DEVICES//,/ }; do
      [[ $entry =~ ^(GPU-|MIG-) || ($entry =~ ^[0-9]{1,4}$ && $((10#$entry)) -lt $all) ]] || break
      seen=$((seen + 1))
    done
    all=$((all > 0 ? seen : 0))
  fi
  echo "$all"
}

# Free mebibytes on the file system of a folder.
free_mib() { df -Pm "$1" | awk 'NR == 2 { print $4 }'; }

need_space() {  # FOLDER MEBIBYTES PURPOSE
  local free
  free=$(free_mib "$1")
  ((free >= $2)) || die 69 "$3 needs $(($2 / 1000)) GB in $1, where $((free / 1000)) GB" \
    "are free: free some space, or clone syncbn onto a larger disk."
}

# logged NAME HELP COMMAND…: runs quietly; on failure shows the errors in the log, then HELP.
logged() {
  local log=$build/log/$1.log help=$2
  shift 2
  mkdir -p "${log%/*}"
  "$@" >"$log" 2>&1 </dev/null && return
  { grep -i -m 4 -A 3 error "$log" || tail -n 15 "$log"; } | cut -c 1-300 >&2
  die 69 "$help The whole output is in $log."
}

# show_progress LOG: says on stderr how far Ninja is by its log, in place on a terminal, else in a line
# every half minute, until it is killed.
show_progress() {
  local log=$1 step shown='' seconds=0
  while sleep 1 >/dev/null 2>&1 9<&-; do
    step=$(grep -o '^\[[0-9]*/[0-9]*\]' "$log" 2>/dev/null | tail -n 1) || continue
    seconds=$((seconds + 1))
    if [[ $step == "$shown" ]]; then continue; fi
    if [[ -t 2 ]]; then
      printf '\r%s ' "$step" >&2
    elif ((seconds >= 30)); then
      printf '%s\n' "$step" >&2
    else
      continue
    fi
    shown=$step seconds=0
  done
}

# Installs those of the named Debian packages that are missing.
install_packages() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "No Debian packages here: taking compiler, CMake, Ninja, MPI and libraries as they are"
    return
  fi
  local installed missing=() package as_root=()
  # dpkg-query fails when it does not know a package: that one is missing, then.
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
    sed -n 's/^installed //p' || true)
  for package in "$@"; do
    grep -qxF -- "$package" <<<"$installed" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  local by_hand="apt-get install -y --no-install-recommends ${missing[*]}"
  if (($(id -u) != 0)); then
    command -v sudo >/dev/null ||
      die 69 "Debian packages are missing and there is no sudo; let root run: $by_hand"
    sudo -v || die 69 "Debian packages are missing and sudo refuses; let root run: $by_hand"
    as_root=(sudo)
  fi
  say "Installing Debian packages: ${missing[*]}"
  local help="apt-get failed: check that the Debian mirror can be reached, or let root run: $by_hand."
  as_root+=(env DEBIAN_FRONTEND=noninteractive apt-get -y -o Acquire::Retries=3)
  logged apt-update "$help" "${as_root[@]}" update
  logged apt-install "$help" "${as_root[@]}" install --no-install-recommends "${missing[@]}"
}

# Prints the Python that .venv is made with: Debian's own before whatever else is first on PATH.
find_python() {
  local python candidates=(/usr/bin/python3 python3 python3.11)
  [[ -z ${SYNCBN_PYTHON:-} ]] || candidates=("$SYNCBN_PYTHON")
  for python in "${candidates[@]}"; do
    if "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      printf '%s\n' "$python"
      return
    fi
  done
  die 69 "Python 3.11 (Debian 12's) is needed, but ${candidates[0]} is" \
    "'$("${candidates[0]}" --version 2>&1 || true)': install python3.11 and python3.11-venv, or name" \
    "the program in SYNCBN_PYTHON."
}

# Makes .venv hold exactly requirements.txt. The stamp is written last: an interrupted .venv is made
# anew. pip unpacks beside it and keeps no cache, so that this one disk is all that has to have room.
make_venv() {
  local requirements=$root/launch/requirements.txt stamp=$venv/requirements.sha256 wanted python
  if [[ -n ${SYNCBN_VENV:-} ]]; then
    compgen -G "$venv/lib/python3.*/site-packages/torch/include/ATen/ATen.h" >/dev/null ||
      die 66 "SYNCBN_VENV names $venv, which holds no LibTorch: install launch/requirements.txt" \
        "there, or unset it to have .venv made."
    return
  fi
  wanted=$(sha256sum <"$requirements")
  [[ $(cat "$stamp" 2>/dev/null) != "$wanted" ]] || return 0
  python=$(find_python)
  need_space "$root" 9000 "Making .venv"
  say "Making .venv from launch/requirements.txt (2.5 GB to fetch, 5 GB in the end)"
  local fetched=$root/.venv.fetched
  rm -rf "$fetched"
  mkdir "$fetched"
  logged venv "Python could not make $venv: is python3-venv installed?" \
    "$python" -m venv --clear "$venv"
  logged pip "pip could not install launch/requirements.txt: check that the package registry can be \
reached (proxy? pip's index-url?), then run this again." \
    env TMPDIR="$fetched" PIP_USER=0 "$venv/bin/python" -m pip install --require-hashes \
    --only-binary :all: --progress-bar off --no-cache-dir -r "$requirements"
  rm -rf "$fetched"
  printf '%s\n' "$wanted" >"$stamp"
}

# How many compilers fit: one per core, and 1.5 GB of memory for each.
build_jobs() {
  local kib limit jobs
  kib=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || true)
  [[ ! $limit =~ ^[0-9]+$ ]] || ((limit / 1024 > kib)) || kib=$((limit / 1024))
  jobs=$(cores)
  ((jobs * 1500000 <= kib)) || jobs=$((kib / 1500000))
  echo $((jobs > 1 ? jobs : 1))
}

# Configures when something has changed, then builds the named targets (none: everything).
build_targets() {
  local jobs
  jobs=$(build_jobs)
  [[ -e $build/build.ninja ]] || need_space "$root" 2000 "Building"
  if [[ ! $build/build.ninja -nt $root/CMakePresets.json || ! $build/build.ninja -nt $venv/pyvenv.cfg ]] ||
    ! grep -qxF "SYNCBN_VENV:PATH=$venv" "$build/CMakeCache.txt"; then
    say "Configuring ${build#"$root"/}"
    (cd "$root" && logged configure "CMake could not configure syncbn." \
      cmake --preset release -B "$build" "-DSYNCBN_VENV=$venv")
  fi
  say "Building ($jobs at a time)"
  local status=0 progress
  rm -f "$build/log/build.log"
  show_progress "$build/log/build.log" 9<&- &
  progress=$!
  (logged build "The build failed." ninja -C "$build" -j "$jobs" "$@") || status=$?
  kill "$progress" 2>/dev/null || true
  wait "$progress" 2>/dev/null || true
  ((status == 0)) || exit "$status"
  [[ ! -t 2 ]] || printf '\r' >&2
  tail -n 1 "$build/log/build.log" >&2
}

# Everything, under a lock: two scripts started at once must not build into each other.
setup() {
  [[ $(uname -sm) == "Linux x86_64" ]] ||
    die 69 "syncbn is built from packages for Linux on x86-64; this is $(uname -sm)."
  exec 9<"$root/launch/requirements.txt"
  flock -n 9 || { say "Waiting for another setup of this checkout" && flock 9; }
  install_packages "${packages[@]}"
  make_venv
  build_targets "$@"
  exec 9<&-
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -euo pipefail
  help_if_asked "$@"
  for target in "$@"; do
    [[ $target != -* ]] || die 64 "unknown option '$target'; usage: launch/setup.sh [TARGET…]"
  done
  setup "$@"
fi
