"""Faults while training: every rank ends, soon, with the code of the fault."""

import os
import pathlib
import signal
import time

import pytest

from support import trainer

ENDLESS = {"data.name": "synthetic", "model.hidden": "16", "train.epochs": 1000000}
TEARDOWN_S = 5


def children(pid):
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Job:
    """An endless run under mpirun, once it trains."""

    def __init__(self, out, ranks, **options):
        words = trainer.arguments({**ENDLESS, **options, "run.out": out})
        self.process = trainer.start(*words, ranks=ranks)
        deadline = time.monotonic() + 60
        while not ((out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size):
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        self.ranks = children(self.process.pid)
        assert len(self.ranks) == ranks

    def end(self):
        """Code, stderr and seconds till mpirun and all ranks are gone, a minute at most."""
        started = time.monotonic()
        try:
            stderr = self.process.communicate(timeout=60)[1]
            while any(map(alive, self.ranks)) and time.monotonic() < started + 60:
                time.sleep(0.02)
            return self.process.returncode, stderr, time.monotonic() - started
        finally:
            for pid in filter(alive, [*self.ranks, self.process.pid]):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number, code", [(signal.SIGKILL, 137), (signal.SIGSEGV, 139)])
def test_a_killed_rank_ends_the_job(tmp_path, number, code):
    job = Job(tmp_path / "run", ranks=3)
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
    job = Job(tmp_path / "run", ranks=2, **{"run.timeout": limit})
    os.kill(job.ranks[1], signal.SIGSTOP)
    returned, stderr, seconds = job.end()
    assert returned == 124, stderr
    assert limit - 0.5 < seconds < limit + 3
    assert "rank 0/2" in stderr and "no progress for 2" in stderr


def test_a_job_whose_mpirun_dies_leaves_no_rank(tmp_path):
    job = Job(tmp_path / "run", ranks=2)
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
