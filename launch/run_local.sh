#!/usr/bin/env bash
# Runs one training, or a study, on this machine: a laptop, or one node with several GPUs.
#
#   launch/run_local.sh -n R [-t SECONDS] [--max-restarts N] [--] CONFIG [--key value …]
#
#   -n R                ranks; "gpus" starts one for each GPU that CUDA_VISIBLE_DEVICES leaves
#   -t SECONDS          end the job after so long, restarts included (exit code 110)
#   --max-restarts N    start again, N times at most, and go on from the last checkpoint when a rank or
#                       mpirun was killed (137) or crashed (139), when nothing moved (124), or when MPI,
#                       CUDA or NCCL failed (71); never after Ctrl-C or another signal to this script
#                       (default: SYNCBN_MAX_RESTARTS, or 0)
#   CONFIG              an INI file of configs/ or configs/studies/; what follows goes to syncbn-train
#                       (or, if the file has an [experiment …], to syncbn-study) and wins over the file
#
# Sets what Open MPI, OpenMP and NCCL need on one node, unless the environment already says
# otherwise, prints the whole command, and ends with the job's own exit code. SIGUSR1 goes on to the
# job, which saves a checkpoint and ends with 75; after SIGTERM, SIGINT and SIGHUP mpirun leaves it one
# second to save. Nothing of it is left, even if mpirun is killed; what a killed script leaves in /dev/shm
# is removed by the next one.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/job.sh"

usage="usage: launch/run_local.sh -n R [-t SECONDS] [--max-restarts N] [--] CONFIG [--key value …]"
settings=()
default() { [[ -n ${!1+set} ]] || settings+=("$1=$2"); }  # NAME VALUE

warn_space() {  # FOLDER MEBIBYTES ADVICE
  local free
  free=$(free_mib "$1" 2>/dev/null || echo 0)
  ((free >= $2)) || say "Warning: $1 has $free MiB free, $2 are advised: $3"
}

ranks='' limit='' max_restarts=${SYNCBN_MAX_RESTARTS:-0}
while [[ ${1:-} == -* ]]; do
  word=$1
  case $word in
    -h | --help) show_help && exit ;;
    -n | -t | --max-restarts)
      (($# > 1)) || die 64 "$word needs a value; $usage"
      value=$2
      shift 2
      ;;
    -[nt]?*) value=${word:2} word=${word:0:2} && shift ;;
    --max-restarts=*) value=${word#*=} word=--max-restarts && shift ;;
    --) shift && break ;;
    *) die 64 "unknown option $word; $usage" ;;
  esac
  case $word in
    -n) ranks=$value ;;
    -t) limit=$value ;;
    --max-restarts) max_restarts=$value ;;
  esac
done

[[ $ranks != gpus ]] || ranks=$(visible_gpus)
[[ $ranks =~ ^[1-9][0-9]{0,3}$ ]] ||
  die 64 "-n must be a number of ranks from 1 to 9999, or \"gpus\" where there are some; found" \
    "'$ranks'; $usage"
[[ ${limit:-1} =~ ^[1-9][0-9]{0,8}$ ]] || die 64 "-t must be a number of seconds; found '$limit'."
check_restarts "$max_restarts" --max-restarts
config=${1:-}
[[ -n $config && $config != -* ]] || die 64 "no configuration file named before the options; $usage"
[[ -f $config && -r $config ]] || die 66 "configuration '$config' is not a readable file; see configs/."
shift
program=$(program_of "$config")
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

# The program names the folder of a training by itself; a restart has to know it.
if ((max_restarts)) && [[ $program == *-train ]] && ! names_folder "$config" "$@"; then
  set -- "$@" --run.out "$(new_folder "$config" "$(date +%Y%m%d-%H%M%S)")"
fi

warn_space /dev/shm $((128 + 4 * ranks)) "in a container, start it with --shm-size=1g."
make_job_folder /dev/shm
trap remove_job_folder EXIT
private=()
if [[ -n $job_folder ]]; then
  private=("SYNCBN_JOB_FOLDER=$job_folder")
  for name in orte_tmpdir_base {btl_vader,osc_sm,osc_rdma}_backing_directory; do
    name=OMPI_MCA_$name
    [[ -n ${!name+set} ]] || private+=("$name=$job_folder")
  done
else
  warn_space "${TMPDIR:-/tmp}" 64 "Open MPI cannot start in a full folder; point TMPDIR elsewhere."
fi

before_start() {  # mpirun itself keeps the time limit, of which a restart has what is left
  local left=$((${limit:-0} - SECONDS))
  start=(env ${private[@]+"${private[@]}"})
  [[ -z $limit ]] || start+=("MPIEXEC_TIMEOUT=$((left > 1 ? left : 1))")
}
before_restart() { [[ -z $job_folder ]] || end_processes; }

launcher=(env "${settings[@]}" mpirun -n "$ranks" --quiet)
command=("$program" --config "$config" "$@")
say "$(printf '%q ' "${launcher[@]}" "${command[@]}")"
run_job "$max_restarts" "${launcher[@]}" -- "${command[@]}"
exit "$job_status"
