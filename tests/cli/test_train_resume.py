"""Stopping and going on: by options, signals and crashes, on any number of ranks, to the same bits.

Checkpoints hold no rank count, so each part of a run below has another one than the part before.
"""

import hashlib
import json
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
    """Goes on, or begins where there is no run yet."""
    return trainer.run(*trainer.arguments({**options, "run.out": folder}), "--resume",
                       *begins(folder), ranks=ranks, **settings)


def begins(folder):
    """The words for a folder that holds no run yet: a configuration, here without a line."""
    if (folder / "config.ini").exists():
        return []
    empty = folder.parent / "empty.ini"
    empty.write_text("")
    return ["--config", str(empty)]


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


@pytest.mark.parametrize("ranks", [None, 3])
def test_of_a_finished_run_no_byte_changes(copy, finished, ranks):
    before = contents(copy)
    run = resumed(copy, {}, ranks)
    assert contents(copy) == before
    [line] = [line for line in run.result.stderr.splitlines() if "finished" in line]
    assert str(copy) in line and "21 steps" in line and "nothing is to be done" in line
    assert "resumed" not in run.result.stderr
    expect_same(run, finished)


@pytest.mark.parametrize("steps", [0, 9, 14])
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


def test_a_run_that_was_killed_before_its_end_was_written_is_ended(copy, finished):
    """Its checkpoint of the last step is there, its model or its metadata are not."""
    rows = (copy / "metrics.csv").read_text()
    for name in ("model.safetensors", "metadata.json"):
        (copy / name).unlink()
        expect_same(resumed(copy, {}, ranks=2), finished)
    assert [line.split(",")[:3] for line in (copy / "metrics.csv").read_text().splitlines()] == [
        line.split(",")[:3] for line in rows.splitlines()]


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


# ---- the best by validation ----

# From its fifth epoch on it takes steps that are 300 times too long.
BEST = {**BASE, **CASES["sync"], "data.validation": 0.3, "train.epochs": 6, "train.lr": 0.01,
        "train.schedule": "step", "train.milestones": 4, "train.gamma": 300, "run.keep_best": True}


def best_of(rows):
    return max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"], -row["epoch"]))


def test_the_best_model_is_kept_through_stops_and_crashes(tmp_path):
    whole = trainer.train(tmp_path / "whole", BEST, ranks=2)
    best, content = best_of(whole.rows), (whole.folder / "best.safetensors").read_bytes()
    assert 1 <= best["epoch"] < 5
    assert whole.metadata["best"] == {
        "file": "best.safetensors", "epoch": best["epoch"], "step": best["step"],
        "val_accuracy": best["val_accuracy"], "val_loss": best["val_loss"]}
    scored = trainer.train(tmp_path / "scored", {
        **BEST, "run.keep_best": False, "train.max_steps": 0, "model.weights":
        whole.folder / "best.safetensors"})
    assert [scored.rows[0][name] for name in ("val_loss", "val_accuracy")] == [
        best["val_loss"], best["val_accuracy"]]

    folder = tmp_path / "parts"
    for step, ranks in ((8, 1), (17, 3), (24, 2)):
        part = resumed(folder, {**BEST, "train.max_steps": step}, ranks)
        expected = best_of(part.rows)
        assert part.metadata["best"]["epoch"] == expected["epoch"]
        # As a crash may leave it: of a later epoch than the newest checkpoint knows.
        (folder / "best.safetensors").write_bytes(b"of later")
        (folder / "model.safetensors").unlink()
    run = resumed(folder, {**BEST, "train.max_steps": -1}, ranks=1)
    expect_same(run, whole)
    assert (folder / "best.safetensors").read_bytes() == content
    assert run.metadata["best"] == whole.metadata["best"]
    expect_refused(folder, 65, ["run.keep_best is 'true'", "all epochs or of none"],
                   {"run.keep_best": False})


def test_the_best_has_the_statistics_that_it_was_measured_with(tmp_path):
    run = trainer.train(tmp_path / "run", {**BEST, "norm.eval": "recomputed"}, ranks=2)
    best = best_of(run.rows)
    scored = trainer.train(tmp_path / "scored", {
        **BEST, "run.keep_best": False, "train.max_steps": 0, "model.weights":
        run.folder / "best.safetensors"})
    assert scored.rows[0]["val_loss"] == best["val_loss"]


def test_the_best_by_the_test_set_is_refused(tmp_path):
    result = trainer.run(*trainer.arguments({**BASE, "run.keep_best": True,
                                             "run.out": tmp_path / "run"}), ranks=2)
    assert result.code == 64
    sentence = result.sentence()
    assert "run.keep_best" in sentence and "chosen by the test set" in sentence
    assert "--data.validation 0.1" in sentence
    assert not (tmp_path / "run").exists()


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


def test_a_refusal_says_why_and_what_to_do(copy, tmp_path):
    expect_refused(copy, 65, ["train.lr is '0.001', expected '1e-04'. ",
                              "goes on to the bits of one that was never stopped",
                              f"--model.weights {copy}/model.safetensors"], {"train.lr": 1e-4})
    folder = tmp_path / "cosine"
    options = {**BASE, **CASES["momentum"]}
    trainer.train(folder, {**options, "train.max_steps": 8})
    (folder / "model.safetensors").unlink()
    [path] = checkpoints(folder)
    expect_refused(folder, 65, ["train.epochs is '3', expected '5' (the cosine schedule depends on "
                                "train.epochs)", f"--model.weights {path}."], {"train.epochs": 5})
    result = trainer.run(*trainer.arguments({
        **options, "train.epochs": 5, "run.out": tmp_path / "new", "model.weights": path}))
    assert result.code == 0, "the advice is not good: " + result.stderr


# ---- forged checkpoints: what a digest does not find ----

def forge(path, change):
    """Changes a checkpoint as `change(header, payload)` does, with the digest that then fits."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, payload = json.loads(content[8:8 + length]), bytearray(content[8 + length:])
    change(header, payload)
    header["__metadata__"]["checkpoint.sha256"] = "0" * 64
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    forged = len(text).to_bytes(8, "little") + text + bytes(payload)
    digest = hashlib.sha256(forged).hexdigest().encode()
    key = b'"checkpoint.sha256":"'
    path.write_bytes(forged.replace(key + b"0" * 64, key + digest, 1))


def position(**changes):
    def change(header, _):
        texts = header["__metadata__"]
        texts["position"] = json.dumps(json.loads(texts["position"]) | changes)
    return change


def count(name, value):
    def change(header, payload):
        begin, end = header[name]["data_offsets"]
        payload[begin:end] = value.to_bytes(end - begin, "little", signed=True)
    return change


@pytest.mark.parametrize("change, says", [
    (position(epoch=2**62), "position says 4611686018427387904"),
    (position(epoch=0.7), "'0.7' for epoch"),
    (position(epoch=-5), "'-5' for epoch"),
    (position(epoch=1), "step 21 follows 3 whole epochs of 7 steps, and its position says 1"),
    (position(epoch=3), "3 epochs of 301 samples do not make the 602"),
    (position(samples=603), "do not make the 603"),
    (position(samples=1e300), "for samples"),
    (position(seconds=-1), "-1 seconds"),
    (position(seconds="soon"), "position is"),
    (position(csv_bytes=3), "expected 3 whole lines in them, found 0 and a part"),
    (position(csv_bytes=-1), "'-1' for csv_bytes"),
    (position(csv_bytes=2**64 - 1), "for csv_bytes"),
    (position(csv_bytes=2**40), "checkpoint counts on 1099511627776"),
    (position(jsonl_bytes=0), "expected 2 whole lines in them, found 0"),
    (count("1.num_batches_tracked", -2**63), "1.num_batches_tracked is -9223372036854775808"),
    (count("epoch.correct", -1), "epoch.correct is -1"),
])
def test_a_forged_checkpoint_is_refused(copy, change, says):
    for path in checkpoints(copy)[:-1]:
        path.unlink()
    forge(checkpoints(copy)[-1], change)
    expect_refused(copy, 65, [says])


def test_a_checkpoint_forged_without_a_change_is_taken(copy, finished):
    forge(checkpoints(copy)[-1], position())
    (copy / "metadata.json").unlink()
    expect_same(resumed(copy, {}), finished)


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
def test_a_folder_without_a_run_is_not_begun_by_resume_alone(tmp_path, ranks):
    """A mistyped folder, most likely."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made/notes.txt").write_text("mine")
    for name in ("none", "made"):
        result = trainer.run("--resume", f"--run.out={tmp_path / name}", "--data.name=synthetic",
                             ranks=ranks)
        assert result.code == 66
        sentence = result.sentence()
        assert str(tmp_path / name) in sentence and "holds no run" in sentence
        assert "--config" in sentence
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["made", "notes.txt"]


@pytest.mark.parametrize("made", [False, True])
def test_without_a_checkpoint_the_run_begins_with_a_warning(tmp_path, finished, made):
    folder = tmp_path / "run"
    if made:
        folder.mkdir()
    run = resumed(folder, {**BASE, **CASES["sync"]}, ranks=2)
    assert f"no checkpoint in '{folder}/checkpoints'; the run begins" in run.result.stderr
    expect_same(run, finished)
