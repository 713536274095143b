"""A full disk, as a small tmpfs in a mount namespace (needs root)."""

import hashlib
import subprocess

import pytest

from support import trainer

OPTIONS = {"data.name": "synthetic", "train.epochs": 1}
SCRIPT = """
mount -t tmpfs -o size=$1 tmpfs "$2" || exit 99
shift 2; out=$1; shift
"$@"; code=$?
ls -A "$out" >&2
cat "$out/metadata.json" >&2
exit $code
"""


@pytest.mark.parametrize("size, file", [("8k", "metadata.json"), ("256k", "checkpoints/step-"),
                                        ("1500k", "model.safetensors")])
@pytest.mark.parametrize("ranks", [1, 2])
def test_says_so_and_leaves_no_half_file(tmp_path, size, file, ranks):
    out = tmp_path / "run"
    prefix = ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", size, str(tmp_path), str(out)]
    result = trainer.run(*trainer.arguments({**OPTIONS, "run.out": out}), ranks=ranks,
                         prefix=prefix)
    assert result.code == 74, result.stderr
    [sentence] = [line for line in result.sentences() if "No space left on device" in line]
    assert f"{out}/{file}" in sentence and "free some space" in sentence
    assert "config.ini" in result.stderr.splitlines()
    assert file not in result.stderr.splitlines() and ".tmp" not in result.stderr.split(sentence)[1]
    assert '"COMPLETE"' not in result.stderr


RESUMED_SCRIPT = """
mount -t tmpfs -o size=1m tmpfs "$1" || exit 99
out=$1/run; shift
"$@" --run.out=$out --train.max_steps=3 || exit 98
free=$(df --output=avail -k "$out" | tail -1)
head -c $(((free - 48) * 1024)) /dev/zero >"$out/other"
"$@" --run.out=$out --resume --train.max_steps=-1; code=$?
ls -A "$out/checkpoints"
rm "$out/other"
"$@" --run.out=$out --resume --train.max_steps=-1 || exit 97
sha256sum <"$out/model.safetensors"
exit $code
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_save_that_fails_leaves_the_checkpoint_before_it(tmp_path, ranks):
    options = {**OPTIONS, "model.hidden": "12", "data.limit": 500}
    expected = trainer.train(tmp_path / "whole", options).folder / "model.safetensors"
    disk = tmp_path / "disk"
    disk.mkdir()
    prefix = ["unshare", "--mount", "sh", "-c", RESUMED_SCRIPT, "sh", str(disk)]
    result = trainer.run(*trainer.arguments(options), ranks=ranks, prefix=prefix)
    assert result.code == 74, result.stderr
    [sentence] = [line for line in result.sentences() if "No space left on device" in line]
    assert f"{disk}/run/checkpoints/step-000000000004.safetensors" in sentence
    assert result.stdout.split()[:2] == ["step-000000000003.safetensors",
                                         hashlib.sha256(expected.read_bytes()).hexdigest()]


# A small tmpfs on the folder $1; fills it, bar the checkpoint of step 10, and saves step 20 twice.
FULL_DISK = """
mount -t tmpfs -o size=64k tmpfs "$1" || exit 99
"$2" save "$1/checkpoints" 2 10 1000 || exit 98
head -c 40000 /dev/zero >"$1/other"
"$2" save "$1/checkpoints" 2 20 10000; code=$?
ls -A "$1/checkpoints" && "$2" newest "$1/checkpoints" || exit 97
rm "$1/other"
"$2" save "$1/checkpoints" 2 20 10000 >&2 || exit 96
exit $code
"""


def test_a_full_disk_loses_nothing(tmp_path):
    probe = trainer.PROGRAMS / "tests/checkpoint_probe"
    result = subprocess.run(["unshare", "--mount", "sh", "-c", FULL_DISK, "sh", tmp_path, probe],
                            text=True, capture_output=True, timeout=60)
    assert result.returncode == 74, result.stderr
    path = tmp_path / "checkpoints/step-000000000020.safetensors"
    assert f"'{path}.tmp-" in result.stderr and "No space left on device" in result.stderr
    assert result.stdout.split() == [str(path).replace("20.s", "10.s"),
                                     "step-000000000010.safetensors", "10"]
    assert result.stderr.splitlines()[-1] == str(path), "saving goes on once there is room"
