"""Threads that make steps slower are noticed by trying them, and said in one warning.

The libraries' own way to wait is left as it is for users, not quiet as in other tests."""

import os
import subprocess

import pytest

from support import trainer

ROOT = trainer.ROOT
WARNING = "a typical loop takes "


def place(cores, first):
    """Of this process: where it may run, and, if it may say so, that it goes before all others."""
    os.sched_setaffinity(0, cores)
    if first:
        try:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        except PermissionError:
            pass  # in a container; the machine is quiet then, or a try of several is


def dry_run(*arguments, cores, ranks=1, first=False):
    """What a dry run says on these cores of how fast its threads are."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    result = subprocess.run(
        ["mpirun", "-n", str(ranks), trainer.PROGRAM, "--config", ROOT / "configs/smoke.ini",
         "--dry-run", *arguments],
        env={**kept, **{key: value for key, value in trainer.ENVIRONMENT.items()
                        if not key.startswith("OMP_")}},
        preexec_fn=lambda: place(cores, first), capture_output=True, text=True,
        timeout=100, stdin=subprocess.DEVNULL, check=False)
    assert result.returncode == 0, result.stderr
    return [line for line in (result.stdout + result.stderr).splitlines() if WARNING in line]


def one_core():
    return {min(os.sched_getaffinity(0))}


def test_many_threads_on_one_core_are_said_to_be_slow():
    [warning] = dry_run("--run.threads", "8", cores=one_core())
    assert "threads slow rank 0 on " in warning and "times as long on its 8 threads" in warning
    assert "--run.threads 1" in warning and "--bind-to none" in warning


def test_of_several_ranks_one_line_is_said():
    [warning] = dry_run("--run.threads", "4", cores=one_core(), ranks=2)
    assert "times as long on its 4 threads" in warning


def test_one_thread_is_nothing_to_warn_of():
    assert dry_run("--run.threads", "1", cores=one_core()) == []


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has room for one thread")
def test_a_thread_for_each_core_is_nothing_to_warn_of():
    """Beside programs that want the same cores the warning is right. So the job goes before them,
    and one silent try of several shows that it is not said of the plan."""
    cores = set(sorted(os.sched_getaffinity(0))[:2])
    assert any(dry_run("--run.threads", "2", cores=cores, first=True) == [] for _ in range(10))
