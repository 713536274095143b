"""Data sets as people have them: other classes than ten, other names, sizes and scales; what a run
keeps of them."""

import gzip
import json
import shutil

import numpy as np
import pytest
import torch

from support import idx, study, trainer

LETTERS = 26
OPTIONS = {"data.name": "idx", "data.label_offset": 1, "data.scale": "standard",
           "model.hidden": "8", "train.batch": 24, "train.epochs": 2, "run.shards": 4}


def write_letters(folder, train=104, test=52):
    """EMNIST letters in small: labels from 1 to 26, each letter a bright pixel of 5 x 7, zipped
    under EMNIST's names."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(3)
    for split, count in [("train", train), ("test", test)]:
        labels = np.arange(count) % LETTERS
        images = random.integers(0, 60, (count, 35))
        images[np.arange(count), labels] = 255
        images = images.reshape(count, 5, 7)
        for kind, array in [("images-idx3", images), ("labels-idx1", labels + 1)]:
            body = idx.header(*array.shape) + array.astype(np.uint8).tobytes()
            path = folder / f"emnist-letters-{split}-{kind}-ubyte.gz"
            half = len(body) // 2  # two members and zeros, as gunzip takes them
            path.write_bytes(gzip.compress(body[:half]) + gzip.compress(body[half:]) + bytes(512))
    return folder


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    return write_letters(tmp_path_factory.mktemp("emnist") / "gzip")


@pytest.fixture(scope="module")
def runs(letters, tmp_path_factory):
    """The same training on 1, 2 and 3 ranks; the folder is the archive's, above the files."""
    folder = tmp_path_factory.mktemp("runs")
    return {ranks: trainer.train(folder / str(ranks), {**OPTIONS, "data.dir": letters.parent},
                                 ranks=ranks) for ranks in (1, 2, 3)}


def test_letters_train_to_the_same_bits_on_any_number_of_ranks(runs):
    states = [run.state for run in runs.values()]
    for name, value in states[0].items():
        assert all(torch.equal(value, state[name]) for state in states[1:]), name
    assert states[0]["0.weight"].shape == (8, 35)
    assert states[0]["3.weight"].shape == (LETTERS, 8)
    assert all(run.column("val_loss") == runs[1].column("val_loss") for run in runs.values())


def test_says_and_keeps_classes_scale_and_folder(runs, letters):
    images = idx.read(letters / "emnist-letters-train-images-idx3-ubyte.gz") / 255
    for run in runs.values():
        data = run.metadata["data"]
        assert (data["classes"], data["inputs"]) == (LETTERS, 35)
        assert data["mean"] == pytest.approx(images.mean(), rel=1e-13)
        assert data["deviation"] == pytest.approx(images.std(), rel=1e-13)
        assert data["mean"] == runs[1].metadata["data"]["mean"], "the same bits on any rank"
        assert "samples of 26 classes" in run.result.stderr
        assert f"(x/255 - {images.mean():.6g}) / {images.std():.6g}" in run.result.stderr
        assert run.config["data"]["dir"] == data["dir"] == str(letters / "emnist-letters")


def test_resumes_from_another_folder_and_not_with_other_classes(runs, letters, tmp_path):
    moved = write_letters(tmp_path / "moved")
    folder = tmp_path / "run"
    shutil.copytree(runs[2].folder, folder)
    words = ["--resume", "--run.out", folder]
    more = trainer.run(*words, "--train.epochs", 3, "--data.dir", moved, ranks=2)
    assert more.code == 0, more.stderr
    assert trainer.Run(more, folder).config["data"]["dir"] == str(moved / "emnist-letters")
    other = trainer.run(*words, "--train.epochs", 4, "--data.classes", 30)
    assert other.code == 65, other.stderr
    assert "data.classes is '0', expected '30'" in other.sentences()[-1]


def test_a_runs_config_needs_no_variable(tmp_path, monkeypatch):
    data = tmp_path / "mnist"
    data.mkdir()
    idx.write_tiny(data)
    options = {"model.hidden": "4", "train.batch": 8, "train.epochs": 1}
    monkeypatch.setenv("SYNCBN_MNIST_DIR", "mnist")  # below the working folder
    first = trainer.train(tmp_path / "first", options, cwd=tmp_path)
    assert first.config["data"]["dir"] == str(data)
    monkeypatch.delenv("SYNCBN_MNIST_DIR")
    words = ["--config", first.folder / "config.ini", "--run.out", tmp_path / "again"]
    again = trainer.Run(trainer.run(*words, cwd="/"), tmp_path / "again")
    assert again.column("val_loss") == first.column("val_loss")
    data.rename(tmp_path / "gone")
    lost = trainer.run(*words, "--overwrite")
    assert lost.code == 66, lost.stderr
    assert str(data) in lost.sentence() and "config.ini: line" in lost.sentence()


def test_a_path_that_no_configuration_can_hold_is_not_kept(tmp_path, monkeypatch):
    data = tmp_path / "a#b"
    data.mkdir()
    monkeypatch.setenv("SYNCBN_MNIST_DIR", str(idx.write_tiny(data)))
    options = {"model.hidden": "4", "train.batch": 8, "train.epochs": 1}
    run = trainer.train(tmp_path / "run", options)
    assert run.config["data"]["dir"] == ""


def test_synthetic_keeps_no_folder_and_takes_other_classes(tmp_path):
    run = trainer.train(tmp_path / "run", {"data.name": "synthetic", "data.classes": 12,
                                           "data.limit": 100, "model.hidden": "4",
                                           "train.batch": 20, "train.max_steps": 1})
    assert run.config["data"]["dir"] == ""
    assert run.state["3.weight"].shape == (12, 4)
    check = trainer.run("--data.name=synthetic", "--data.classes=12", "--model.hidden=4",
                        "--self-check", ranks=2)
    assert check.code == 0, check.stderr


STUDY = """
[study]
seeds = 1
[data]
name = idx
label_offset = 1
dir = {}
[model]
hidden = 4
[train]
batch = 26
max_steps = 10
[measure]
targets = 0.5
train_samples = 20
population = 20
[experiment letters]
data.scale = unit | standard
"""


def test_a_study_of_letters(letters, tmp_path):
    config = study.write(tmp_path, STUDY.format(letters))
    result = study.run(config, tmp_path / "out")
    assert result.code == 0, result.stderr
    tree = json.loads((tmp_path / "out" / "study.json").read_text())
    assert list(tree["data"]) == ["idx", "idx scaled by its own mean and deviation"]
    assert tree["data_dirs"] == {str(letters / "emnist-letters"): "idx"}
    trials = study.finished(tmp_path / "out").values()
    # 35 x 4 + 4, batch norm's 8, 4 x 26 + 26
    assert [trial["parameters"] for trial in trials] == [282, 282]
    assert len({trial["final"]["val_loss"] for trial in trials}) == 2
