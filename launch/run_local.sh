#!/usr/bin/env bash
# Runs one training, or a study, on this machine: a laptop, or one node with several GPUs.
#
#   launch/run_local.sh -n R [-t SECONDS] [--] CONFIG [--key value …]
#
#   -n R        ranks; "gpus" starts one for each GPU that CUDA_VISIBLE_DEVICES leaves
#   -t SECONDS  end the job after so long (exit code 110)
#   CONFIG      an INI file of configs/ or configs/studies/; what follows goes to syncbn-train (or, if
#               the file has an [experiment …], to syncbn-study) and wins over the file
#
# Sets what Open MPI, OpenMP and NCCL need on one node, unless the environment already says
# otherwise, prints the whole command, and ends with the job's own exit code.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage="usage: launch/run_local.sh -n R [-t SECONDS] [--] CONFIG [--key value …]"
settings=()
default() { [[ -n ${!1+set} ]] || settings+=("$1=$2"); }  # NAME VALUE

warn_space() {  # FOLDER MEBIBYTES ADVICE
  local free
  free=$(free_mib "$1" 2>/dev/null || echo 0)
  ((free >= $2)) || say "Warning: $1 has $free MiB free, $2 are advised: $3"
}

ranks='' limit=()
while getopts ":n:t:h" option; do
  case $option in
    n) ranks=$OPTARG ;;
    t) limit=(--timeout "$OPTARG") ;;
    h) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" && exit ;;
    :) die 64 "-$OPTARG needs a value; $usage" ;;
    *) die 64 "unknown option -$OPTARG; $usage" ;;
  esac
done
shift $((OPTIND - 1))

[[ $ranks != gpus ]] || ranks=$(visible_gpus)
[[ $ranks =~ ^[1-9][0-9]{0,3}$ ]] ||
  die 64 "-n must be a number of ranks from 1 to 9999, or \"gpus\" where there are some; found" \
    "'$ranks'; $usage"
[[ ${limit[1]:-1} =~ ^[1-9][0-9]*$ ]] || die 64 "-t must be a number of seconds; found '${limit[1]}'."
config=${1:-}
[[ -n $config && $config != -* ]] || die 64 "no configuration file named before the options; $usage"
[[ -f $config && -r $config ]] || die 66 "configuration '$config' is not a readable file; see configs/."
shift
program=$build/syncbn-train
! grep -q '^[[:space:]]*\[experiment ' "$config" || program=$build/syncbn-study
[[ -x $program ]] || die 69 "$program is not built: run launch/setup.sh."
command -v mpirun >/dev/null || die 69 "mpirun is not on PATH: run launch/setup.sh."

if (($(id -u) == 0)); then
  default OMPI_ALLOW_RUN_AS_ROOT 1
  default OMPI_ALLOW_RUN_AS_ROOT_CONFIRM 1
fi
# Without a remote shell mpirun would refuse to start even on one node.
command -v ssh >/dev/null || command -v rsh >/dev/null || default OMPI_MCA_plm isolated
default OMPI_MCA_btl self,vader
default OMPI_MCA_btl_vader_single_copy_mechanism none
default OMPI_MCA_hwloc_base_binding_policy none
default OMPI_MCA_rmaps_base_oversubscribe 1
threads=$(($(cores) / ranks))
default OMP_NUM_THREADS $((threads > 1 ? threads : 1))
default OMP_DYNAMIC FALSE
default MKL_DYNAMIC FALSE
default CUBLAS_WORKSPACE_CONFIG :4096:8
default NCCL_RAS_ENABLE 0
default NCCL_SOCKET_IFNAME lo
default NCCL_DEBUG WARN

warn_space "${TMPDIR:-/tmp}" 64 "Open MPI cannot start in a full folder; point TMPDIR elsewhere."
warn_space /dev/shm $((128 + 4 * ranks)) "in a container, start it with --shm-size=1g."

command=(env "${settings[@]}" mpirun -n "$ranks" ${limit[@]+"${limit[@]}"}
  "$program" --config "$config" "$@")
say "$(printf '%q ' "${command[@]}")"
exec "${command[@]}" </dev/null
