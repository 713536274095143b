"""Stopping and going on: by options, signals and crashes, on any number of ranks, to the same bits.

Checkpoints hold no rank count, so each part of a run below has another one than the part before.
"""

import os
import random
import signal
import time

import pytest
import safetensors.torch
import torch

from support import trainer
from support.resuming import (BASE, CASES, STEPS, begins, checkpoints, contents, expect_refused,
                              expect_same, resumed, step_of)
from support.signalled import Job

# Ended by a signal, and then by train.epochs.
ENDLESS = {**BASE, **CASES["sync"], "train.epochs": 1000000, "run.checkpoint_steps": 3,
           "run.keep_checkpoints": 3}
SECONDS_TO_STOP = 5


# ---- stopped by train.max_steps ----

def stops_of(case):
    """The steps 1 to 20 in a random order, a quarter of them for each case, in order."""
    steps = random.Random(2).sample(range(1, STEPS), STEPS - 1)
    return sorted(steps[list(CASES).index(case)::len(CASES)])


@pytest.mark.parametrize("case", [
    "sync", *(pytest.param(case, marks=pytest.mark.nightly) for case in CASES if case != "sync")])
def test_a_run_stopped_at_any_step_goes_on_to_the_same_bits(tmp_path, case):
    options = {**BASE, **CASES[case], "train.max_steps": -1}
    expected = trainer.train(tmp_path / "whole", options, ranks=2)
    folder, limit = tmp_path / "parts", expected.rows[-1]["step"]
    for part, step in enumerate([step for step in stops_of(case) if step < limit]):
        run = resumed(folder, {**options, "train.max_steps": step}, ranks=[3, 1, 4, 2][part % 4])
        assert run.rows[-1]["step"] == step_of(checkpoints(folder)[-1]) == step
        assert run.column("epoch") == list(range(1, len(run.rows) + 1))
    expect_same(resumed(folder, options, ranks=4), expected)


def test_the_configuration_is_that_of_the_folder(copy, finished_run):
    (copy / "checkpoints/step-000000000021.safetensors").unlink()
    run = trainer.Run(trainer.run("--resume", f"--run.out={copy}", ranks=3), copy)
    assert f"resumed  {checkpoints(copy)[1]}, step 14" in run.result.stderr
    expect_same(run, finished_run)


@pytest.mark.parametrize("ranks", [None, 3])
def test_of_a_finished_run_no_byte_changes(copy, finished_run, ranks):
    before = contents(copy)
    run = resumed(copy, {}, ranks)
    assert contents(copy) == before
    [line] = [line for line in run.result.stderr.splitlines() if "finished" in line]
    assert str(copy) in line and "21 steps" in line and "nothing is to be done" in line
    assert "resumed" not in run.result.stderr
    expect_same(run, finished_run)


@pytest.mark.parametrize("steps", [0, 9, pytest.param(14, marks=pytest.mark.nightly)])
def test_neither_where_train_max_steps_ended_it(tmp_path, steps):
    folder, options = tmp_path / "run", {**BASE, **CASES["ghost"]}
    trainer.train(folder, {**options, "train.max_steps": steps})
    before = contents(folder)
    for words in ({}, {"train.max_steps": steps, "run.threads": 1}):
        run = resumed(folder, words, ranks=2 if words else None)
        assert contents(folder) == before
        assert f"{steps} steps: nothing is to be done" in run.result.stderr
    if steps == 0:  # of which no checkpoint tells what it was
        expect_refused(folder, 65, ["config.ini", "train.lr is '0.001', expected '1'"],
                       {"train.lr": 1})
        expect_refused(folder, 73, ["no checkpoint"], {"train.max_steps": 5})
    else:
        expect_same(resumed(folder, {"train.max_steps": -1}), trainer.train(tmp_path / "w", options))


def test_a_run_that_was_killed_before_its_end_was_written_is_ended(copy, finished_run):
    """Its checkpoint of the last step is there, its model or its metadata are not."""
    rows = (copy / "metrics.csv").read_text()
    for name in ("model.safetensors", "metadata.json"):
        (copy / name).unlink()
        expect_same(resumed(copy, {}, ranks=2), finished_run)
    assert [line.split(",")[:3] for line in (copy / "metrics.csv").read_text().splitlines()] == [
        line.split(",")[:3] for line in rows.splitlines()]


def test_a_finished_run_takes_more_epochs(copy, tmp_path):
    options = {**BASE, **CASES["sync"], "train.epochs": 5}
    expected = trainer.train(tmp_path / "whole", options)
    expect_same(resumed(copy, options, ranks=3), expected)


def test_python_opens_the_last_checkpoint(finished_run):
    state = safetensors.torch.load_file(checkpoints(finished_run.folder)[-1])
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    names = {f"{layer}.{name}" for layer in (0, 4, 8) for name in ("weight", "bias")}
    names |= {f"{layer}.{name}" for layer in (1, 5) for name in norm}
    assert set(finished_run.state) == names
    assert set(state) == names | {"optimizer.exp_avg", "optimizer.exp_avg_sq", "epoch.loss",
                                  "epoch.correct"}
    for name, value in finished_run.state.items():
        assert torch.equal(state[name], value), name
    assert state["optimizer.exp_avg"].abs().sum() > 0


# ---- crashes and signals ----

def start_endless(folder, ranks, *flags, **settings):
    """An endless run, once it has taken steps of its own."""
    known = {path.name for path in checkpoints(folder)}
    return Job(ranks, lambda _: {path.name for path in checkpoints(folder)} - known,
               {**ENDLESS, "run.out": folder}, *flags, *begins(folder), **settings)


def end_and_compare(folder, tmp_path, ranks):
    """Ends the run one epoch after its newest checkpoint's, and compares it with a whole run."""
    epochs = step_of(checkpoints(folder)[-1]) // 7 + 2
    options = {**ENDLESS, "train.epochs": epochs}
    run = resumed(folder, options, ranks)
    expect_same(run, trainer.train(tmp_path / "whole", options))


@pytest.mark.nightly
def test_crashes_at_random_moments_lose_only_the_last_steps(tmp_path):
    chance, folder = random.Random(3), tmp_path / "run"
    for part in range(6):
        job = start_endless(folder, [2, 3, 1, 4][part % 4], "--resume")
        time.sleep(chance.uniform(0, 0.2))
        victim = chance.choice([*job.ranks, job.process.pid])
        os.kill(victim, signal.SIGKILL)
        code, stderr, _ = job.end()
        assert code == (-signal.SIGKILL if victim == job.process.pid else 137), stderr
    end_and_compare(folder, tmp_path, ranks=3)


def test_sigusr1_stops_the_job_with_a_checkpoint(tmp_path):
    chance, folder, stops = random.Random(4), tmp_path / "run", []
    for part in range(5):
        job = start_endless(folder, [3, 2, 4, 1][part % 4], "--resume")
        time.sleep(chance.uniform(0, 0.2))
        job.process.send_signal(signal.SIGUSR1)
        if part % 2 == 1:
            time.sleep(0.01)
            job.process.send_signal(signal.SIGUSR1)
        code, stderr, seconds = job.end()
        assert code == 75, stderr
        assert seconds < SECONDS_TO_STOP
        stops.append(step_of(checkpoints(folder)[-1]))
        sentence = f"stopped on request after step {stops[-1]}; go on with --resume --run.out "
        assert sentence + str(folder) in stderr
        metadata = (folder / "metadata.json").read_text()
        assert '"STOPPED"' in metadata and f'"steps_done": {stops[-1]},' in metadata
        assert not (folder / "model.safetensors").exists()
    assert stops == sorted(set(stops)) and any(step % 3 for step in stops), "saved by the signal"
    end_and_compare(folder, tmp_path, ranks=2)


# mpirun waits its grace out twice, whatever the ranks do (seconds).
@pytest.mark.parametrize("grace", [1, pytest.param(5, marks=pytest.mark.nightly)])
def test_sigterm_leaves_a_checkpoint(tmp_path, grace):
    folder = tmp_path / "run"
    prefix = ["env", f"OMPI_MCA_odls_base_sigkill_timeout={grace}"]
    job = start_endless(folder, 3, prefix=prefix)
    before = step_of(checkpoints(folder)[-1])
    job.process.send_signal(signal.SIGTERM)
    assert job.end()[0] == 1
    assert step_of(checkpoints(folder)[-1]) >= before
    if grace == 5:
        assert '"STOPPED"' in (folder / "metadata.json").read_text()
    end_and_compare(folder, tmp_path, ranks=2)
