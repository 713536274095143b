"""Stopping and going on: by options, signals and crashes, on any number of ranks, to the same bits.

Checkpoints hold no rank count, so each part of a run below has another one than the part before.
"""

import hashlib
import os
import random
import re
import signal
import time

import pytest
import safetensors.torch
import torch

from support import trainer
from support.signalled import Job

# 7 steps an epoch, the last of 13 samples: fewer than the 16 shards.
BASE = {"data.name": "synthetic", "data.limit": 301, "model.hidden": "12,9", "train.batch": 48,
        "train.epochs": 3, "run.shards": 16}
STEPS = 21
CASES = {
    "sync": {"norm.batch": "global", "train.optimizer": "adam", "model.dropout": 0.2},
    "local": {"norm.batch": "local", "train.drop_last": True, "train.optimizer": "sgd",
              "train.momentum": 0.9, "train.lr": 0.05},
    "ghost": {"norm.batch": 16, "train.optimizer": "adam", "norm.eval": "recomputed"},
    "momentum": {"norm.batch": "global", "norm.cumulative": True, "train.optimizer": "sgd",
                 "train.lr": 0.05, "train.schedule": "cosine", "model.dropout": 0.3},
}
# Ended by a signal, and then by train.epochs.
ENDLESS = {**BASE, **CASES["sync"], "train.epochs": 1000000, "run.checkpoint_steps": 3,
           "run.keep_checkpoints": 3}
SECONDS_TO_STOP = 5
RESULTS = ["epoch", "step", "samples", "train_loss", "train_accuracy", "val_loss", "val_accuracy",
           "val_error", "lr"]  # the other columns are times


def resume(folder, options, ranks=None, **settings):
    return trainer.run(*trainer.arguments({**options, "run.out": folder}), "--resume", ranks=ranks,
                       **settings)


def resumed(folder, options, ranks=None):
    return trainer.Run(resume(folder, options, ranks), folder)


def digest(run):
    return hashlib.sha256((run.folder / "model.safetensors").read_bytes()).hexdigest()


def checkpoints(folder):
    return sorted((folder / "checkpoints").glob("step-*.safetensors"))


def step_of(path):
    return int(re.search(r"step-(\d+)", path.name)[1])


def expect_same(run, expected):
    """The same results as those of a run that was not stopped; no row missing, doubled or torn."""
    assert digest(run) == digest(expected)
    for name in RESULTS:
        assert run.column(name) == expected.column(name), name
        assert [line[name] for line in run.lines] == expected.column(name), name
    text = (run.folder / "metrics.csv").read_text()
    commas = text.splitlines()[0].count(",")
    assert text.endswith("\n") and {line.count(",") for line in text.splitlines()} == {commas}
    assert not list(run.folder.rglob("*.tmp-*"))
    assert run.metadata["status"] == "COMPLETE"


# ---- stopped by train.max_steps ----

def stops_of(case):
    """The steps 1 to 20 in a random order, a quarter of them for each case, in order."""
    steps = random.Random(2).sample(range(1, STEPS), STEPS - 1)
    return sorted(steps[list(CASES).index(case)::len(CASES)])


@pytest.mark.parametrize("case", CASES)
def test_a_run_stopped_at_any_step_goes_on_to_the_same_bits(tmp_path, case):
    options = {**BASE, **CASES[case], "train.max_steps": -1}
    expected = trainer.train(tmp_path / "whole", options, ranks=2)
    folder, limit = tmp_path / "parts", expected.rows[-1]["step"]
    for part, step in enumerate([step for step in stops_of(case) if step < limit]):
        run = resumed(folder, {**options, "train.max_steps": step}, ranks=[3, 1, 4, 2][part % 4])
        assert run.rows[-1]["step"] == step_of(checkpoints(folder)[-1]) == step
        assert run.column("epoch") == list(range(1, len(run.rows) + 1))
    expect_same(resumed(folder, options, ranks=4), expected)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run, not to be changed, that has kept its checkpoints of steps 7 and 14, and its end."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return trainer.train(folder, {**BASE, **CASES["sync"], "run.checkpoint_steps": 7,
                                  "run.keep_checkpoints": 3}, ranks=2)


@pytest.fixture
def copy(finished, tmp_path):
    """Its folder, to be changed."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in finished.folder.rglob("*"):
        target = folder / path.relative_to(finished.folder)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    return folder


def test_the_configuration_is_that_of_the_folder(copy, finished):
    (copy / "checkpoints/step-000000000021.safetensors").unlink()
    run = trainer.Run(trainer.run("--resume", f"--run.out={copy}", ranks=3), copy)
    assert f"resumed  {checkpoints(copy)[1]}, step 14" in run.result.stderr
    expect_same(run, finished)


def test_a_finished_run_stays_as_it_is(copy, finished):
    expect_same(resumed(copy, {}), finished)
    assert [step_of(path) for path in checkpoints(copy)] == [7, 14, 21]


def test_a_finished_run_takes_more_epochs(copy, tmp_path):
    options = {**BASE, **CASES["sync"], "train.epochs": 5}
    expected = trainer.train(tmp_path / "whole", options)
    expect_same(resumed(copy, options, ranks=3), expected)


def test_python_opens_the_last_checkpoint(finished):
    state = safetensors.torch.load_file(checkpoints(finished.folder)[-1])
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    names = {f"{layer}.{name}" for layer in (0, 4, 8) for name in ("weight", "bias")}
    names |= {f"{layer}.{name}" for layer in (1, 5) for name in norm}
    assert set(finished.state) == names
    assert set(state) == names | {"optimizer.exp_avg", "optimizer.exp_avg_sq", "epoch.loss",
                                  "epoch.correct"}
    for name, value in finished.state.items():
        assert torch.equal(state[name], value), name
    assert state["optimizer.exp_avg"].abs().sum() > 0


# ---- crashes and signals ----

def start_endless(folder, ranks, *flags, **settings):
    """An endless run, once it has taken steps of its own."""
    known = {path.name for path in checkpoints(folder)}
    begin = folder.parent / "begin.ini"  # with which --resume begins where there is no run yet
    begin.touch()
    flags += ("--config", str(begin))
    return Job(ranks, lambda _: {path.name for path in checkpoints(folder)} - known,
               {**ENDLESS, "run.out": folder}, *flags, **settings)


def end_and_compare(folder, tmp_path, ranks):
    """Ends the run one epoch after its newest checkpoint's, and compares it with a whole run."""
    epochs = step_of(checkpoints(folder)[-1]) // 7 + 2
    options = {**ENDLESS, "train.epochs": epochs}
    run = resumed(folder, options, ranks)
    expect_same(run, trainer.train(tmp_path / "whole", options))


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
@pytest.mark.parametrize("grace", [1, 5])
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


# ---- what cannot be resumed ----

def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def expect_refused(folder, code, parts, options=None, ranks=None):
    """One sentence, and no file is changed."""
    before = contents(folder)
    result = resume(folder, options or {}, ranks)
    assert result.code == code, result.stderr
    [sentence] = [line for line in result.sentences() if line.startswith("syncbn-train: ")]
    for part in parts:
        assert str(part) in sentence
    assert contents(folder) == before


def test_a_damaged_checkpoint_is_passed_over_loudly(copy, finished):
    newest = checkpoints(copy)[-1]
    damage(newest)
    run = resumed(copy, {}, ranks=2)
    warnings = [line for line in run.result.sentences() if "passed over" in line]
    assert len(warnings) == 1 and str(newest) in warnings[0] and "SHA-256" in warnings[0]
    assert f"resumed  {checkpoints(copy)[1]}, step 14" in run.result.stderr
    expect_same(run, finished)


@pytest.mark.parametrize("ranks", [None, 2])
def test_damaged_checkpoints_alone_are_refused(copy, ranks):
    for path in checkpoints(copy):
        damage(path)
    expect_refused(copy, 65, ["No checkpoint in", *checkpoints(copy)], ranks=ranks)


def test_a_checkpoint_of_another_run_is_refused(copy):
    other = {"model.hidden": "12,8", "run.shards": 8, "run.seed": 2, "data.limit": 290,
             "train.optimizer": "sgd"}
    was = {"model.hidden": "12,9", "run.shards": 16, "run.seed": 1, "data.limit": 301,
           "train.optimizer": "adam"}
    sentences = {key: f"{key} is '{was[key]}', expected '{other[key]}'" for key in other}
    path = checkpoints(copy)[-1]
    for key in other:
        expect_refused(copy, 65, [path, "of another run", sentences[key]], {key: other[key]})
    expect_refused(copy, 65, sentences.values(), other, ranks=2)
    expect_refused(copy, 65, ["global batch is '48', expected '40'"], {"train.batch": 40})


@pytest.mark.parametrize("name", ["metrics.csv", "metrics.jsonl"])
def test_metrics_that_were_cut_are_refused(copy, name):
    path = copy / name
    path.write_bytes(path.read_bytes()[:100])
    result = resume(copy, {}, ranks=2)
    assert result.code == 65, result.stderr
    sentence = result.sentences()[-1]
    assert str(path) in sentence and "100 bytes" in sentence and "checkpoint counts on" in sentence


def test_options_that_end_the_run_before_the_checkpoint_are_refused(copy):
    expect_refused(copy, 64, ["21 steps", "after 3;", "train.max_steps"], {"train.max_steps": 3})
    expect_refused(copy, 64, ["21 steps", "after 14;", "train.epochs"], {"train.epochs": 2},
                   ranks=2)


def test_resume_needs_a_folder_and_excludes_overwrite(copy):
    before = contents(copy)
    for words, part in ((["--resume"], "--run.out"),
                        (["--resume", "--overwrite", f"--run.out={copy}"], "--overwrite")):
        result = trainer.run(*words)
        assert result.code == 64
        assert part in result.sentence()
    assert contents(copy) == before


@pytest.mark.parametrize("ranks", [None, 2])
@pytest.mark.parametrize("made", [False, True])
def test_without_a_run_and_a_configuration_it_is_refused(tmp_path, made, ranks):
    """A mistyped folder does not train the defaults."""
    folder = tmp_path / "none"
    if made:
        folder.mkdir()
    result = trainer.run("--resume", f"--run.out={folder}", ranks=ranks)
    assert result.code == 66, result.stderr
    sentence = result.sentence()
    assert f"{folder}' holds no run" in sentence and "--config" in sentence
    assert list(tmp_path.iterdir()) == [folder] * made and not list(folder.glob("*"))


@pytest.mark.parametrize("made", [False, True])
def test_without_a_checkpoint_the_run_begins_with_a_warning(tmp_path, finished, made):
    folder = tmp_path / "run"
    if made:
        folder.mkdir()
    begin = tmp_path / "begin.ini"
    begin.touch()
    run = resumed(folder, {**BASE, **CASES["sync"], "config": begin}, ranks=2)
    assert f"no checkpoint in '{folder}/checkpoints'; the run begins" in run.result.stderr
    expect_same(run, finished)
