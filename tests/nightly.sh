#!/usr/bin/env bash
# Runs a share of what is too slow for every build, in about 40 minutes on 2 cores: the tests labelled "nightly" (one is the
# table of faults), random kills, mutated inputs, the fuzz targets, a soak, and tests under sanitizers.
#
#   tests/nightly.sh [PART …]      of: tests kills mutations fuzz soak asan tsan
#
# Each part ends in a line that says what it did; a part that fails does not stop the others, and makes the exit code 1.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch/setup.sh"

help_if_asked "$@"
parts=(tests kills mutations fuzz soak asan tsan)
(($#)) || set -- "${parts[@]}"
for name in "$@"; do
  [[ " ${parts[*]} " == *" $name "* ]] || die 64 "unknown part '$name'; the parts are ${parts[*]}."
done
setup
install_packages clang libclang-rt-14-dev
data=$("$root/launch/fetch_mnist.sh") || die $? "no data; the lines above say why."
data=${data##*$'\n'}
export SYNCBN_MNIST_DIR=${data#* }
export SYNCBN_BUILD_DIR=$build PYTHONPATH=$root/tests
cd "$root"

in_python() { "$venv/bin/python" -m "endurance.$1" "${@:2}"; }

# quietly LOG COMMAND…: the output goes to the log, whose end is shown if the command fails. (Within a part, which is
# the condition of a branch, `set -e` has no effect: each command is asked for its status.)
quietly() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 && return
  tail -n 30 "$log"
  return 1
}

# Some of the C++ tests in a build of their own: PRESET, a filter for ctest, targets.
sanitized() {
  local preset=$1 filter=$2 folder=$root/build-$1
  shift 2
  quietly "$folder.log" cmake --preset "$preset" "-DSYNCBN_VENV=$venv" || return 1
  quietly "$folder.log" ninja -C "$folder" -j "$(build_jobs)" "$@" || return 1
  ctest --test-dir "$folder" -R "$filter" --output-on-failure --no-tests=error
}

fuzz() {
  local folder=$root/build-fuzz target found
  found=$(mktemp -d)
  quietly "$folder.log" cmake -S tests/fuzz -B "$folder" -G Ninja "-DSYNCBN_VENV=$venv" || return 1
  quietly "$folder.log" ninja -C "$folder" -j "$(build_jobs)" || return 1
  for target in idx config tensors; do
    mkdir "$found/$target"
    quietly "$found/$target.log" "$folder/${target}_fuzz" "-max_total_time=${SYNCBN_FUZZ_SECONDS:-60}" \
      -rss_limit_mb=2048 -timeout=20 -print_final_stats=1 "-artifact_prefix=$found/$target-" "$found/$target" \
      "tests/fuzz/corpus/$target" || return 1
    printf 'fuzz: %s, %s executions, no finding\n' "$target" \
      "$(awk '/number_of_executed_units/ { print $2 }' "$found/$target.log")"
  done
  rm -rf "$found"
}

part() {
  case $1 in
    tests) ctest --test-dir "$build" -L nightly --output-on-failure --no-tests=error ;;
    kills) in_python kills --kills 20 --seed "$RANDOM" ;;
    mutations) in_python mutations --files 3000 --whole 60 --seed "$RANDOM" ;;
    fuzz) fuzz ;;
    soak) in_python soak --minutes 3 --seed "$RANDOM" ;;
    asan) sanitized asan '^(comm_test|sync_batch_norm_test|runtime_test|idx_test|checkpoint_test)(\.np2)?$' \
      comm_test sync_batch_norm_test runtime_test runtime_probe idx_test checkpoint_test ;;
    tsan) sanitized tsan '^(stop_test|runtime_test|poll_test)$' stop_test runtime_test runtime_probe poll_test ;;
  esac
}

failed=()
for name in "$@"; do
  say "$name"
  SECONDS=0
  part "$name" || failed+=("$name")
  say "$name took $SECONDS s"
done
if ((${#failed[@]})); then
  say "failed: ${failed[*]}"
  exit 1
fi
say "all of it passed"
