#!/usr/bin/env bash
# Gets MNIST: prints "<data set> <folder>" on stdout, and everything else on stderr.
#
#   launch/fetch_mnist.sh
#
#   1. the folder named by SYNCBN_MNIST_DIR, if its IDX files, under any of the names that the trainer
#      reads (docs/data.md), are the four published ones and no others
#   2. else data/mnist beside this script's folder, downloaded from public mirrors as far as needed
#   3. else Debian's package dataset-fashion-mnist, the drop-in replacement (root or sudo)
#
# What counts is the SHA-256 of the uncompressed bytes: mirrors compress differently. A download goes
# to a .part file, is taken up again where it broke off, and gets its name only once it is right.
#
#   SYNCBN_MNIST_MIRRORS   base URLs to try instead, separated by spaces
#   SYNCBN_FETCH_TIMEOUT   seconds without data after which a mirror is given up (10)
#   SYNCBN_NO_FALLBACK=1   never take Fashion-MNIST
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

help_if_asked "$@"
(($# == 0)) || die 64 "unexpected argument '$1'; usage: launch/fetch_mnist.sh"

readonly root
readonly own_dir=$root/data/mnist
readonly debian_dir=/usr/share/datasets/fashion-mnist
readonly mirrors=${SYNCBN_MNIST_MIRRORS:-https://ossci-datasets.s3.amazonaws.com/mnist
  https://storage.googleapis.com/cvdf-datasets/mnist}
readonly stall_s=${SYNCBN_FETCH_TIMEOUT:-10}
readonly files=(train-images-idx3-ubyte train-labels-idx1-ubyte
                t10k-images-idx3-ubyte t10k-labels-idx1-ubyte)
readonly names='^([^.].*-)?(train|t10k|test)-(images|labels)[-.]idx[1-9]-(ubyte|int)(\.gz)?$'  # docs/data.md

declare -rA size=(
  [train-images-idx3-ubyte]=47040016 [train-labels-idx1-ubyte]=60008
  [t10k-images-idx3-ubyte]=7840016 [t10k-labels-idx1-ubyte]=10008)
# shellcheck disable=SC2034  # used by name, in is_file
declare -rA mnist=(
  [train-images-idx3-ubyte]=ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db
  [train-labels-idx1-ubyte]=65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5
  [t10k-images-idx3-ubyte]=0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7
  [t10k-labels-idx1-ubyte]=ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2)
# shellcheck disable=SC2034
declare -rA fashion_mnist=(
  [train-images-idx3-ubyte]=c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888
  [train-labels-idx1-ubyte]=bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9
  [t10k-images-idx3-ubyte]=5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b
  [t10k-labels-idx1-ubyte]=0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34)

say() { printf 'fetch_mnist: %s\n' "$*" >&2; }
die() { say "$@"; exit 69; }

# is_file SET NAME PATH: PATH holds NAME of the data set SET, plain or compressed, whatever it is called.
# The head stops a file that inflates beyond what it should, and the pipe then fails.
is_file() {
  local -n digests=$1
  local digest
  [[ -f $3 ]] || return 1
  digest=$(gzip -dcf 2>/dev/null <"$3" | head -c $((size[$2] + 1)) | sha256sum) || return 1
  [[ ${digest%% *} == "${digests[$2]}" ]]
}

# has_set SET FOLDER: FOLDER, or torchvision's below it, holds all four files of SET under names that the
# trainer reads, also in folders of their names, and nothing else that it might take for one of them.
has_set() {
  local below path part
  local -A found dimensions=([images]=3 [labels]=1)
  for below in "" /raw /MNIST/raw; do
    found=()
    for path in "$2$below"/*idx[1-9]-* "$2$below"/*idx[1-9]-*/*idx[1-9]-*; do
      [[ -f $path && ${path##*/} =~ $names ]] || continue
      part=${BASH_REMATCH[2]/test/t10k}-${BASH_REMATCH[3]}
      if ! is_file "$1" "$part-idx${dimensions[${BASH_REMATCH[3]}]}-ubyte" "$path"; then
        say "$path is not the published file."
        return 1
      fi
      found[$part]=yes
    done
    ((${#found[@]} < 4)) || return 0
  done
  return 1
}

finish() { printf '%s %s\n' "$1" "$(cd "$2" && pwd)"; exit 0; }

# download URL PART: leaves the whole body in PART, going on with what is there already. A connection
# that breaks is taken up again twice.
download() {
  local status
  for _ in 1 2 3; do
    status=0
    curl --fail --location --silent --show-error --globoff --connect-timeout 5 \
      --speed-limit 1024 --speed-time "$stall_s" --max-time $((stall_s * 60)) \
      --max-filesize 50000000 --continue-at - --output "$2" "$1" >&2 || status=$?
    case $status in
      0) return 0 ;;
      18 | 52 | 56 | 92) say "$1 broke off after $(stat -c %s "$2" 2>/dev/null || echo 0) bytes." ;;
      23) die "Cannot write '$2'. Is the disk full?" ;;
      22 | 33 | 36)  # a refusal: perhaps only of resuming here, so once more from the beginning
        [[ -s $2 ]] || return 1
        rm -f "$2" ;;
      *) return 1 ;;
    esac
  done
  return 1
}

# fetch_file MIRROR NAME: gets NAME.gz into own_dir. A part left by another mirror may not fit this
# one's bytes, so what was resumed and came out wrong is fetched once more from the beginning.
fetch_file() {
  local url=${1%/}/$2.gz final=$own_dir/$2.gz part=$own_dir/$2.gz.part resumed
  is_file mnist "$2" "$final" && return 0
  while true; do
    resumed=$([[ -s $part ]] && echo yes || echo no)
    if ! is_file mnist "$2" "$part"; then
      say "Downloading $url"
      download "$url" "$part" || { say "$url cannot be had."; return 1; }
    fi
    if is_file mnist "$2" "$part"; then
      mv -f "$part" "$final"
      return 0
    fi
    rm -f "$part"
    say "$url is not the published file (SHA-256 of the uncompressed bytes)."
    [[ $resumed == yes ]] || return 1
  done
}

fetch_all() {
  local mirror name
  for mirror in $mirrors; do
    for name in "${files[@]}"; do
      fetch_file "$mirror" "$name" || continue 2
    done
    return 0
  done
  return 1
}

install_fashion_mnist() {
  local apt=(apt-get) fix="Put MNIST's four files into a folder and name it with SYNCBN_MNIST_DIR"
  command -v apt-get >/dev/null || die "This is not a Debian system. $fix."
  if [[ $(id -u) != 0 ]]; then
    command -v sudo >/dev/null || die "Without root or sudo nothing can be installed. $fix, or ask" \
      "an administrator for the package dataset-fashion-mnist."
    apt=(sudo apt-get)
  fi
  say "Installing Debian's package dataset-fashion-mnist."
  local install=("${apt[@]}" install -y --no-install-recommends dataset-fashion-mnist)
  export DEBIAN_FRONTEND=noninteractive
  "${install[@]}" >&2 || { "${apt[@]}" update >&2 && "${install[@]}" >&2; } ||
    die "Debian's package dataset-fashion-mnist cannot be installed. $fix."
}

if [[ -n ${SYNCBN_MNIST_DIR:-} ]]; then
  if has_set mnist "$SYNCBN_MNIST_DIR"; then finish mnist "$SYNCBN_MNIST_DIR"; fi
  say "SYNCBN_MNIST_DIR ('$SYNCBN_MNIST_DIR') does not hold MNIST's four files; looking elsewhere."
fi
if has_set mnist "$own_dir"; then finish mnist "$own_dir"; fi

if command -v curl >/dev/null; then
  mkdir -p "$own_dir" || die "Cannot make the folder '$own_dir'. Make it writable."
  exec {lock}>"$own_dir/.lock"
  flock "$lock"  # two calls at once would write the same .part files
  if fetch_all; then finish mnist "$own_dir"; fi
  say "No mirror delivered MNIST."
else
  say "curl is not installed (apt-get install curl), so MNIST cannot be downloaded."
fi

if [[ ${SYNCBN_NO_FALLBACK:-} == 1 ]]; then
  die "MNIST is not to be had, and SYNCBN_NO_FALLBACK=1 forbids Fashion-MNIST. Check the network, or" \
    "put the four files into a folder and name it with SYNCBN_MNIST_DIR."
fi
has_set fashion_mnist "$debian_dir" || install_fashion_mnist
has_set fashion_mnist "$debian_dir" ||
  die "$debian_dir does not hold the published Fashion-MNIST. Reinstall dataset-fashion-mnist."
say "NOTE: this is Fashion-MNIST, the drop-in replacement of MNIST, and not MNIST itself:" \
  "accuracies are not comparable with those of MNIST."
finish fashion-mnist "$debian_dir"
