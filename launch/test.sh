#!/usr/bin/env bash
# Builds what has changed and runs every test that this machine can run.
#
#   launch/test.sh [CTEST OPTION …]      for instance -R comm
#
# Left out: labels "gpu" (ctest --test-dir build -C gpu -L gpu), "bench" and "nightly" (tests/nightly.sh);
# label "root" where no namespaces can be made, which takes root, and in a container CAP_SYS_ADMIN; label
# "mnist" where MNIST could not be had. The last line says "N passed, N failed"; the exit code is ctest's.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
help_if_asked "$@"

setup
install_packages chromium python3-yaml  # what the tests of pages and of the Kubernetes job need
say "Getting the data"
data=$("$root/launch/fetch_mnist.sh") || die $? "no data; the lines above say why."
data=${data##*$'\n'}
export SYNCBN_MNIST_DIR=${data#* }

left_out='gpu|bench|nightly'
if [[ ${data%% *} != mnist ]]; then
  left_out+='|mnist'
  say "MNIST could not be had: leaving out the tests with label 'mnist', which need the real one"
fi
if (($(id -u) != 0)); then
  left_out+='|root'
  say "Not root: leaving out the tests with label 'root' (two hosts and full disks, as namespaces)"
elif ! unshare --mount --net mount -t tmpfs tmpfs /tmp 2>/dev/null; then
  left_out+='|root'
  say "No namespaces can be made here, as in a container without CAP_SYS_ADMIN: leaving out the tests" \
    "with label 'root' (two hosts and full disks)"
fi
say "Testing ($(cores) at a time)"
summary=$(mktemp)
trap 'rm -f "$summary"' EXIT
status=0
ctest --test-dir "$build" -LE "^($left_out)\$" --output-on-failure --no-tests=error -j "$(cores)" "$@" \
  </dev/null | tee "$summary" || status=$?

awk '/tests passed, .* tests failed out of/ { failed = $4; total = $NF }
     /\(Skipped\)$/ { skipped++ }
     END { if (skipped) print skipped " skipped, named above"
           printf "%d passed, %d failed\n", total - failed - skipped, failed }' "$summary"
exit "$status"
