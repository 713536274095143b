"""Faults while training: every rank ends, soon, with the code of the fault."""

import os
import pathlib
import signal

import pytest

from support import idx, trainer
from support.signalled import Job

ENDLESS = {"data.name": "synthetic", "model.hidden": "16", "train.epochs": 1000000}
TEARDOWN_S = 5


def has_open(pid, path):
    try:
        return str(path) in map(os.readlink, pathlib.Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


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
    assert limit - 0.5 < seconds < limit + 3
    assert "rank 0/2" in stderr and "no progress for 2" in stderr


def test_a_rank_stopped_while_the_data_loads_ends_the_job(tmp_path):
    limit = 3
    images = idx.write_large(tmp_path) / idx.NAMES[0]
    job = Job(2, lambda pids: [pid for pid in pids if has_open(pid, images)],
              {"data.dir": tmp_path, "run.out": tmp_path / "run", "run.timeout": limit})
    [waiting] = set(job.ranks) - set(job.found)
    os.kill(waiting, signal.SIGSTOP)
    returned, stderr, seconds = job.end()
    assert returned == 124, stderr
    assert seconds < limit + 3
    assert "rank 0/2" in stderr and "no progress for 3 s, in 'loading the data'" in stderr
    assert not (tmp_path / "run").exists()


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
