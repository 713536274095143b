"""launch/run_local.sh: what it refuses, what it runs, and how a job under it ends.

The scripts run from a copy of launch/ in a temporary folder, with a PATH that holds every system
command except those that a test takes away or replaces. mpirun is the real one throughout.
"""

import os
import time

import pytest

from support.machine import Machine, assert_refused

# Rank 0 has its say and ends the job; the first rank to end with a code would have the others killed.
PROBE_TRAINER = """#!/bin/bash
if [[ ${OMPI_COMM_WORLD_RANK:-0} == 0 ]]; then
  echo "ranks=$OMPI_COMM_WORLD_SIZE threads=$OMP_NUM_THREADS args=$*"
  cat
else
  sleep 60
fi
exit 75
"""


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


# run_local.sh: bad input


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ([], 64, ["-n must be a number of ranks", "usage:"]),
        (["-n", "2"], 64, ["no configuration file", "usage:"]),
        (["-n", "2", "--"], 64, ["no configuration file", "usage:"]),
        (["-n", "2", "--", "--train.lr", "1"], 64, ["no configuration file", "usage:"]),
        (["-n", "0", "configs/main.ini"], 64, ["-n must be", "found '0'"]),
        (["-n", "-1", "configs/main.ini"], 64, ["-n must be", "found '-1'"]),
        (["-n", "two", "configs/main.ini"], 64, ["-n must be", "found 'two'"]),
        (["-n"], 64, ["-n needs a value", "usage:"]),
        (["-x"], 64, ["unknown option -x", "usage:"]),
        (["--max"], 64, ["unknown option --max", "usage:"]),
        (["--max-restarts"], 64, ["--max-restarts needs a value", "usage:"]),
        (["-n", "2", "--max-restarts=-1", "configs/main.ini"], 64, ["--max-restarts must", "'-1'"]),
        (["-n", "2", "-t", "soon", "configs/main.ini"], 64, ["-t must be", "'soon'"]),
        (["-n", "2", "nowhere.ini"], 66, ["'nowhere.ini'", "not a readable file"]),
        (["-n", "2", "/"], 66, ["'/'", "not a readable file"]),
    ],
)
def test_run_local_refuses(machine, arguments, code, parts):
    machine.has("build/syncbn-train", PROBE_TRAINER)
    arguments = [str(machine.checkout / a) if a.endswith("main.ini") else a for a in arguments]
    assert_refused(machine.run("launch/run_local.sh", *arguments), code, *parts)


def test_run_local_without_program(machine):
    config = machine.checkout / "configs/main.ini"
    result = machine.run("launch/run_local.sh", "-n", 2, config)
    assert_refused(result, 69, "syncbn-train is not built", "launch/setup.sh")


def test_run_local_without_mpirun(machine):
    machine.has("build/syncbn-train", PROBE_TRAINER)
    machine.lacks("mpirun")
    result = machine.run("launch/run_local.sh", "-n", 2, machine.checkout / "configs/main.ini")
    assert_refused(result, 69, "mpirun is not on PATH", "launch/setup.sh")


def test_run_local_gpus_where_there_is_none(machine):
    machine.has("build/syncbn-train", PROBE_TRAINER)
    machine.has("nvidia-smi", "exit 9")
    result = machine.run("launch/run_local.sh", "-n", "gpus", machine.checkout / "configs/main.ini")
    assert_refused(result, 64, "-n must be", "found '0'")


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, 4), ("2,3", 2), ("1", 1), ("0,1,7,2", 2), ("0,-1,2", 1), ("GPU-8f6a, GPU-11b2", 2),
     ("08", 0), ("", 0), ("NoDevFiles", 0)],
)
def test_run_local_starts_a_rank_for_each_gpu_that_is_visible(machine, visible, expected):
    """As CUDA reads the list: it ends at the first entry that is no GPU."""
    machine.has("build/syncbn-train", PROBE_TRAINER)
    machine.has("nvidia-smi", "for i in 0 1 2 3; do echo \"GPU $i: H200 (UUID: GPU-$i)\"; done")
    visible = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    config = machine.checkout / "configs/main.ini"
    result = machine.run("launch/run_local.sh", "-n", "gpus", config, **visible)
    if expected == 0:
        assert_refused(result, 64, "-n must be", "found '0'")
    else:
        assert f"mpirun -n {expected} " in result.stderr, result.stderr


# run_local.sh: what it runs


def test_run_local_runs_the_job(machine):
    """More ranks than cores, no ssh, whoever is user: the job starts, and its code comes through."""
    machine.has("build/syncbn-train", PROBE_TRAINER)
    machine.lacks("ssh", "rsh")
    config = machine.checkout / "configs/main.ini"
    ranks = os.cpu_count() + 1
    result = machine.run("launch/run_local.sh", "-n", ranks, "--", config, "--train.lr", "1 2")
    assert result.returncode == 75, result.stderr
    assert f"ranks={ranks} threads=1 args=--config {config} --train.lr 1 2\n" in result.stdout
    assert f"mpirun -n {ranks} --quiet " in result.stderr


def test_run_local_threads(machine):
    machine.has("build/syncbn-train", PROBE_TRAINER)
    machine.has("nproc", '[[ -z ${OMP_NUM_THREADS:-} ]] && echo 12 || echo "$OMP_NUM_THREADS"')
    config = machine.checkout / "configs/main.ini"
    shared_out = machine.run("launch/run_local.sh", "-n", 2, config)
    assert "ranks=2 threads=6 " in shared_out.stdout
    kept = machine.run("launch/run_local.sh", "-n", 2, config, OMP_NUM_THREADS="3")
    assert "ranks=2 threads=3 " in kept.stdout


def test_run_local_warns_of_full_folders(machine):
    machine.has("build/syncbn-train", PROBE_TRAINER)
    machine.has("df", 'printf "Filesystem 1M-blocks Used Available\\nx 64 61 3 95%% %s\\n" "$2"')
    result = machine.run("launch/run_local.sh", "-n", 2, machine.checkout / "configs/main.ini")
    assert result.returncode == 75
    assert "/dev/shm has 3 MiB free" in result.stderr
    assert "TMPDIR" not in result.stderr
    machine.has("mktemp", "exit 1")  # no folder of the job's own: Open MPI takes TMPDIR
    result = machine.run("launch/run_local.sh", "-n", 2, machine.checkout / "configs/main.ini")
    assert result.returncode == 75
    assert "TMPDIR" in result.stderr


@pytest.mark.parametrize(
    ("trainer", "code"),
    [
        ("[[ $OMPI_COMM_WORLD_RANK != 0 ]] || exit 70; exec sleep 40", 70),  # one rank fails
        ("exec sleep 40", 110),  # none does, but the time is up
    ],
)
def test_run_local_ends_what_is_left(machine, trainer, code):
    """No rank is left waiting, whatever grace mpirun has for stragglers."""
    machine.has("build/syncbn-train", trainer)
    config = machine.checkout / "configs/main.ini"
    started = time.monotonic()
    result = machine.run("launch/run_local.sh", "-n", 2, "-t", 5, config)
    assert result.returncode == code
    assert time.monotonic() - started < 15
