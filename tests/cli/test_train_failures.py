"""Faults while training: every rank ends, soon, with the code of the fault."""

import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

from support import idx, trainer
from support.signalled import Job

ENDLESS = {"data.name": "synthetic", "model.hidden": "16", "train.epochs": 1000000}
TEARDOWN_S = 5
# A look at the clock, a second in which every rank writes its line, and mpirun.
REPORT_S = 4
SMALL = {"data.name": "synthetic", "data.limit": 256, "model.hidden": "16", "train.epochs": 1}


def has_open(pid, path):
    try:
        return str(path) in map(os.readlink, pathlib.Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def mapped(library):
    """For Job: whether every rank has loaded the library."""
    return lambda pids: len(pids) == 2 and all(library in read(f"/proc/{p}/maps") for p in pids)


def read(path):
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""


def blocks_usr1(pid):
    """Whether the process is the trainer and holds SIGUSR1 back."""
    try:
        if os.readlink(f"/proc/{pid}/exe") != trainer.PROGRAM:
            return False
    except OSError:
        return False
    blocked = re.search(r"^SigBlk:\s*([0-9a-f]+)$", read(f"/proc/{pid}/status"), re.MULTILINE)
    return bool(blocked) and bool(int(blocked[1], 16) >> (signal.SIGUSR1 - 1) & 1)


def endless(out, ranks, **options):
    """An endless run, once it trains."""
    metrics = out / "metrics.jsonl"
    return Job(ranks, lambda pids: metrics.exists() and metrics.stat().st_size,
               {**ENDLESS, **options, "run.out": out})


@pytest.mark.parametrize("number, code", [(signal.SIGKILL, 137), (signal.SIGSEGV, 139)])
def test_a_killed_rank_ends_the_job(tmp_path, number, code):
    job = endless(tmp_path / "run", ranks=3)
    os.kill(job.ranks[1], number)
    returned, stderr, seconds = job.end()
    assert returned == code, stderr
    assert seconds < TEARDOWN_S
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert all(line.count(",") == lines[0].count(",") for line in lines)  # whole rows only
    assert '"RUNNING"' in (tmp_path / "run" / "metadata.json").read_text()
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_stopped_rank_ends_the_job(tmp_path):
    limit = 2
    job = endless(tmp_path / "run", ranks=2, **{"run.timeout": limit})
    os.kill(job.ranks[1], signal.SIGSTOP)
    returned, stderr, seconds = job.end()
    assert returned == 124, stderr
    assert limit - 0.5 < seconds < limit + REPORT_S
    assert re.search("^rank 0/2 .*: no progress for 2 s: waiting in collective [0-9]+ of 2 ranks "
                     r"\(.*\) in '(training|evaluation)' of step", stderr, re.MULTILINE), stderr
    assert re.search("^rank 1/2 .*: got SIGTERM when it had stood still for [2-5] s", stderr,
                     re.MULTILINE), stderr


def test_a_rank_stopped_while_the_data_loads_ends_the_job(tmp_path):
    limit = 3
    images = idx.write_large(tmp_path) / idx.NAMES[0]
    job = Job(2, lambda pids: [pid for pid in pids if has_open(pid, images)],
              {"data.dir": tmp_path, "run.out": tmp_path / "run", "run.timeout": limit})
    [waiting] = set(job.ranks) - set(job.found)
    os.kill(waiting, signal.SIGSTOP)
    returned, stderr, seconds = job.end()
    assert returned == 124, stderr
    reading = 5  # which is no wait
    assert seconds < reading + limit + REPORT_S
    assert "rank 0/2" in stderr and "no progress for 3 s: waiting " in stderr
    assert "in 'loading the data'" in stderr
    assert not (tmp_path / "run").exists()


def test_a_rank_stopped_in_the_self_check_ends_the_job(tmp_path):
    limit = 3
    job = Job(2, mapped("libtorch_cpu.so"),
              {"model.hidden": "512,512", "run.timeout": limit}, "--self-check", cwd=tmp_path)
    for line in job.process.stderr:
        if "arithmetic" in line:
            break
    os.kill(job.ranks[1], signal.SIGSTOP)
    returned, stderr, seconds = job.end()
    assert returned == 124, stderr
    assert seconds < limit + REPORT_S
    assert re.search("rank 0/2 .* no progress for 3 s: waiting in .* 'self-check'", stderr), stderr


def frozen(call, *words, **variables):
    """A job of two ranks, of which the second freezes in `call` of MPI."""
    command = trainer.command(*words, ranks=[[], []])
    at = len(command) - 1 - command[::-1].index("-n") + 2
    command[at:at] = ["-x", f"LD_PRELOAD={trainer.PROGRAMS / 'tests' / 'libfreeze.so'}",
                      "-x", f"SYNCBN_FREEZE={call}"]
    started = time.monotonic()
    result = subprocess.run(command, env=trainer.environment(**variables), timeout=60,
                            stdin=subprocess.DEVNULL, text=True, capture_output=True)
    return result.returncode, result.stderr, time.monotonic() - started


def test_a_rank_that_freezes_in_the_first_collective_ends_the_job(tmp_path):
    code, stderr, seconds = frozen("MPI_Allgather", *trainer.arguments(SMALL),
                                   "--run.out", tmp_path / "run", SYNCBN_START_TIMEOUT="4")
    assert code == 124, stderr
    start = 10  # of MPI, on a busy machine; mpirun itself would give up after 120 s
    assert seconds < start + 4 + REPORT_S
    assert re.search("rank 0/2 .* no progress for 4 s: waiting in collective 1 of 2 ranks .* in "
                     "'reading the command line'", stderr), stderr


def test_a_rank_that_freezes_in_finalize_ends_the_job(tmp_path):
    code, stderr, _ = frozen("MPI_Finalize", *trainer.arguments({**SMALL, "run.timeout": 2}),
                             "--run.out", tmp_path / "run")
    assert code == 124, stderr
    assert re.search("rank 0/2 .* no progress for 2 s: waiting for the other ranks to end MPI",
                     stderr), stderr
    assert '"COMPLETE"' in (tmp_path / "run" / "metadata.json").read_text()


def test_two_programs_in_one_job_are_refused(tmp_path):
    study = trainer.PROGRAMS / "syncbn-study"
    command = [*trainer.command("--run.out", tmp_path / "run", ranks=1),
               ":", "-n", "1", study, "--config", "configs/smoke.ini"]
    result = subprocess.run(command, env=trainer.environment(), timeout=60, cwd=trainer.ROOT,
                            stdin=subprocess.DEVNULL, text=True, capture_output=True)
    assert result.returncode == 76, result.stderr
    assert "rank 0 has 'syncbn-train', rank 1 has 'syncbn-study'" in result.stderr
    assert not (tmp_path / "run").exists()


def test_signals_wait_while_the_program_is_loaded(tmp_path):
    job = Job(2, lambda pids: len(pids) == 2 and all(map(blocks_usr1, pids)),
              {**ENDLESS, "run.out": tmp_path / "run"})
    job.process.send_signal(signal.SIGUSR1)
    returned, stderr, _ = job.end()
    assert returned == 75, stderr
    assert re.search("stopped on request after step [1-9];", stderr), stderr
    loading = trainer.run("--version", env=trainer.environment(LD_DEBUG="files")).stderr
    assert -1 < loading.find("libsyncbn_early_signals") < loading.find("libtorch")


def test_a_limit_of_file_size_is_a_full_disk(tmp_path):
    options = {**SMALL, "model.hidden": "1024,512", "run.out": tmp_path / "run"}
    limited = ["bash", "-c", 'ulimit -f 6000; exec "$@"', "bash"]
    result = trainer.run(*trainer.arguments(options), prefix=limited, ranks=None)
    assert result.code == 74, result.stderr
    assert "step-000000000002.safetensors" in result.sentences()[-1]
    assert "File too large" in result.sentences()[-1]


SLURM_STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize("task", [0, 1])
def test_tasks_that_mpi_sees_as_jobs_of_one_rank_are_refused(tmp_path, task):
    result = trainer.run(*trainer.arguments(SMALL), cwd=tmp_path,
                         env=trainer.environment(**SLURM_STEP, SLURM_PROCID=str(task)))
    assert result.code == 64
    says = "syncbn-train: Slurm started 2 tasks, and MPI sees a job of one rank in each"
    assert result.stderr.startswith(says) if task == 0 else result.stderr == ""
    assert not list(tmp_path.iterdir())


# Open MPI's mpirun asks Slurm itself where SLURM_JOBID is set, which is not the case here.
@pytest.mark.parametrize("ranks, variables", [
    (None, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}),  # a batch script
    (2, SLURM_STEP),
])
def test_jobs_within_an_allocation_of_slurm_run(tmp_path, ranks, variables):
    trainer.train(tmp_path / "run", SMALL, ranks=ranks, env=trainer.environment(**variables))


def test_a_job_whose_mpirun_dies_leaves_no_rank(tmp_path):
    job = endless(tmp_path / "run", ranks=2)
    job.process.kill()
    assert job.end()[2] < TEARDOWN_S


# After one step no training loss shows yet what became of the weights: the evaluation's does.
@pytest.mark.parametrize("ranks, steps, loss", [(None, -1, "training"), (3, -1, "training"),
                                                (2, 1, "evaluation")])
def test_a_diverged_run_stops_in_that_step(tmp_path, ranks, steps, loss):
    options = {"data.name": "synthetic", "norm.kind": "none", "train.optimizer": "sgd",
               "train.lr": 1e30, "train.max_steps": steps, "run.out": tmp_path / "run"}
    result = trainer.run(*trainer.arguments(options), ranks=ranks)
    assert result.code == 70, result.stderr
    sentences = [line for line in result.sentences() if line.startswith("syncbn-train: ")]
    assert len(sentences) == 1 and result.sentences()[-1] == sentences[0]
    for part in (f"{loss} loss is", "at step", "diverged", "train.lr", "1e+30", "train.clip"):
        assert part in sentences[0]
    assert '"DIVERGED"' in (tmp_path / "run" / "metadata.json").read_text()
    assert not (tmp_path / "run" / "model.safetensors").exists()
