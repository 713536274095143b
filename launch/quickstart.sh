#!/usr/bin/env bash
# From a fresh Debian 12 to trained networks: sets up, gets the data, and trains 784-128-64-10 on two
# ranks without batch norm, with local and with synchronized batch norm. Ends in a table. On two cores
# it takes about 4 minutes, most of it for fetching LibTorch and for building.
# Local is what DistributedDataParallel does by default: statistics of each rank's 64 of B = 128.
#
#   launch/quickstart.sh [--key value …]      for instance --train.epochs 1
#
# The options go to all three trainings. Not taken are those that this script sets itself: config, data.name,
# data.dir, run.out, norm.kind and norm.batch, which stays 64 for local statistics whatever train.batch is.
# Results go to runs/quickstart-<time>/. SYNCBN_MNIST_DIR names the data's folder, if you have it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/job.sh"
help_if_asked "$@"
[[ ${1:---} == --* ]] ||
  die 64 "unexpected word '$1'; usage: launch/quickstart.sh [--key value …], as syncbn-train takes them"
for name in config data.name data.dir run.out norm.kind norm.batch; do
  ! is_given "$name" "$@" ||
    die 64 "--$name is set by this script itself: give it to launch/run_local.sh in place of this."
done

setup syncbn-train
say "Getting the data"
data=$("$root/launch/fetch_mnist.sh") || die $? "no data; the lines above say why."
data=${data##*$'\n'}
dataset=${data%% *} folder=${data#* }

results=$root/runs/quickstart-$(date +%Y%m%d-%H%M%S)
mkdir -p "$results"
train() {  # NAME --key value …
  local name=$1
  shift
  say "Training '$name'"
  "$root/launch/run_local.sh" -n 2 "$root/configs/main.ini" --data.name "$dataset" \
    --data.dir "$folder" --run.out "$results/$name" "$@" ||
    die $? "training '$name' failed; the lines above say why."
}
train none --norm.kind none "$@"
train local --norm.kind batch --norm.batch 64 "$@"
train sync --norm.kind batch --norm.batch global "$@"

# One line from the last row of a run's metrics; rates are over the whole run.
row() {  # TITLE FOLDER
  awk -F, -v title="$1" '
    NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i }
    END {
      printf "%-22s %8.2f %% %8.2f %% %10.4f %10.4f %12.0f %8.1f\n", title,
        100 * $column["train_accuracy"], 100 * $column["test_accuracy"], $column["train_loss"],
        $column["test_loss"], $column["samples"] / $column["seconds"], $column["seconds"]
    }' "$2/metrics.csv"
}
title="MNIST"
[[ $dataset == mnist ]] || title="$dataset (in place of MNIST, which could not be had)"
printf '\n%s, 784-128-64-10, 2 ranks\n' "$title"
printf '%-22s %10s %10s %10s %10s %12s %8s\n' "batch norm" "train acc." "test acc." \
  "train loss" "test loss" "samples/s" "time (s)"
row "none" "$results/none"
row "local (M = 64)" "$results/local"
row "sync (M = B)" "$results/sync"
printf '\nResults (configuration, metrics, model) in\n'
printf '  %s\n' "$results"/{none,local,sync}
