"""What cannot be resumed: damaged, forged and other runs' checkpoints, and folders without a run."""

import hashlib
import json

import pytest

from support import trainer
from support.resuming import (BASE, CASES, checkpoints, contents, expect_refused, expect_same,
                              resume, resumed)


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_passed_over_loudly(copy, finished_run):
    newest = checkpoints(copy)[-1]
    damage(newest)
    run = resumed(copy, {}, ranks=2)
    warnings = [line for line in run.result.sentences() if "passed over" in line]
    assert len(warnings) == 1 and str(newest) in warnings[0] and "SHA-256" in warnings[0]
    assert f"resumed  {checkpoints(copy)[1]}, step 14" in run.result.stderr
    expect_same(run, finished_run)


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


FORGED = [
    (position(epoch=2**62), "position says 4611686018427387904"),
    (count("1.num_batches_tracked", -2**63), "1.num_batches_tracked is -9223372036854775808"),
    (position(jsonl_bytes=0), "expected 2 whole lines in them, found 0"),
]
FORGED_NIGHTLY = [
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
    (count("epoch.correct", -1), "epoch.correct is -1"),
]


@pytest.mark.parametrize("change, says", [
    *FORGED, *(pytest.param(*case, marks=pytest.mark.nightly) for case in FORGED_NIGHTLY)])
def test_a_forged_checkpoint_is_refused(copy, change, says):
    for path in checkpoints(copy)[:-1]:
        path.unlink()
    forge(checkpoints(copy)[-1], change)
    expect_refused(copy, 65, [says])


def test_a_checkpoint_forged_without_a_change_is_taken(copy, finished_run):
    forge(checkpoints(copy)[-1], position())
    (copy / "metadata.json").unlink()
    expect_same(resumed(copy, {}), finished_run)


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
def test_without_a_checkpoint_the_run_begins_with_a_warning(tmp_path, finished_run, made):
    folder = tmp_path / "run"
    if made:
        folder.mkdir()
    run = resumed(folder, {**BASE, **CASES["sync"]}, ranks=2)
    assert f"no checkpoint in '{folder}/checkpoints'; the run begins" in run.result.stderr
    expect_same(run, finished_run)
